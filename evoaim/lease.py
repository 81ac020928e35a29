"""A lease on a study: one coordinator writes it, and another takes over when that one is gone."""

import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from evoaim.errors import ConfigError
from evoaim.records import Records
from evoaim.storage import explained

KEY = "lease"  # user attribute of the study
VALIDITY = 90.0  # seconds
RENEWAL = 20.0  # seconds


@dataclass(frozen=True)
class Holder:
    """Who may write a study, and until when."""

    owner: str  # unique
    host: str
    system: str  # what process ids mean something in: the boot and the container
    pid: int
    started: float  # the process, in seconds since the epoch
    until: float  # in seconds since the epoch

    @classmethod
    def here(cls) -> "Holder":
        """This process, for nothing yet."""
        started = psutil.Process().create_time()
        return cls(uuid.uuid4().hex, platform.node(), _system(), os.getpid(), started, 0.0)

    def gone(self) -> bool:
        """Whether the lease has run out, or its process is known to have ended."""
        if self.until <= time.time():
            return True
        if (self.host, self.system) != (platform.node(), _system()):
            return False
        try:
            process = psutil.Process(self.pid)
            # a process of that id may be another one by now; clocks are set, by some seconds
            another = abs(process.create_time() - self.started) > 60
            return another or bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.until).strftime("%H:%M:%S")
        return f"process {self.pid} on {self.host} (lease until {until})"


class Lease:
    """Held within a `with` block, renewed meanwhile by a thread of its own."""

    def __init__(self, records: Records, study: str) -> None:
        self._records, self._study = records, study
        self._mine: Holder | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()  # of `_mine`, between the two threads
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        """Take the lease.

        Raises:
            ConfigError: somebody else holds it.
        """
        with explained():
            self._take()
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with explained(), self._lock:
            if self._mine is not None:
                old, self._mine = self._mine, None
                self._records.swap(KEY, asdict(old), asdict(replace(old, until=0.0)))

    def check(self) -> None:
        """Check before a write that a lease once taken is still held, with time left to write.

        Raises:
            ConfigError: somebody else holds it now.
        """
        # the thread may have had no chance to renew: the machine slept, the storage was away
        if self._mine is not None and self._mine.until - time.time() < RENEWAL:
            self.renew()

    def renew(self) -> None:
        """Extend the lease by its full time from now.

        Raises:
            ConfigError: somebody else holds it now.
        """
        with explained(), self._lock:
            if self._mine is not None:
                self._extend(self._mine)

    def _take(self) -> None:
        mine = Holder.here()
        while True:
            found = self._records.attribute(KEY)
            if found is not None and not (holder := Holder(**found)).gone():
                raise ConfigError(
                    f"storage: the study '{self._study}' is being written by {holder}; wait for "
                    "it, stop it, or use another name or storage"
                )
            mine = replace(mine, until=time.time() + VALIDITY)
            if self._records.swap(KEY, found, asdict(mine)):
                self._mine = mine
                return

    def _extend(self, mine: Holder) -> None:
        """Renew the lease, also if an earlier renewal was written and its answer lost."""
        new = replace(mine, until=time.time() + VALIDITY)
        if not self._records.swap(KEY, asdict(mine), asdict(new)):
            found: Any = self._records.attribute(KEY)
            ours = found is not None and found["owner"] == mine.owner
            if not (ours and self._records.swap(KEY, found, asdict(new))):
                self._mine = replace(mine, until=0.0)  # every later check fails here again
                who = Holder(**found) if found else "nobody"
                raise ConfigError(
                    f"storage: the study '{self._study}' was taken over by {who} while this "
                    "search was out of touch; it stops, so that not two write. What it has "
                    "recorded is kept"
                )
        self._mine = new

    def _renew(self) -> None:
        while not self._stop.wait(RENEWAL):
            # an error has passed by the next `check`, or it is met again there
            with suppress(ConfigError):
                self.renew()


def _system() -> str:
    """The boot and the process namespace; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
