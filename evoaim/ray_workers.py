"""Workers on a Ray cluster: actors, one GPU each where there are any, else one CPU each.

What the cluster must provide: evoaim on every machine, models and texts under the paths that the
experiment names, and, if it has a calibration, the run directory on a disk that all machines share.
"""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import torch

from evoaim.config import Experiment
from evoaim.crew import Crew, Lost
from evoaim.errors import ConfigError
from evoaim.host import Host, reply
from evoaim.run_dir import RunDir

# Ray reads both when it is imported. A killed worker is told of in a candidate's reason and not in
# the midst of the progress display; a Ray that is started here sends no usage statistics.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
try:
    import ray
    from ray.exceptions import (
        AuthenticationError,
        ObjectLostError,
        OutOfMemoryError,
        RayActorError,
    )
except ImportError:
    raise ConfigError("--ray needs Ray: pip install 'evoaim[ray]'") from None

PATIENCE = 300.0  # seconds for actors to start: machines may have to be added first
REACH = 10.0  # seconds for a cluster's machine to answer
_STORE = 100 << 20  # bytes of Ray's object store, which only jobs and answers pass


class EvoaimWorker:
    """A worker's inside as a Ray actor."""

    def __init__(self, folder: str, machine: str, threads: int | None) -> None:
        """Look around.

        Args:
            folder: from which relative paths count.
            machine: name of the search's.
            threads: that the search may use on its machine, if that was limited.
        """
        self._host, self._slot, self._calibrated = Host(), 0, False
        self._strange = ""  # how this machine differs, if it is another one
        if socket.gethostname() != machine:
            self._strange = f"machine {socket.gethostname()}"
        if os.path.isdir(folder):
            os.chdir(folder)
        else:
            self._strange += f", which has no folder {folder}, where relative paths begin"
        # Ray allows a thread for every CPU asked for; `Host` shares them out by machine.
        torch.set_num_threads(threads or psutil.cpu_count(logical=False) or 1)

    def where(self) -> tuple[str, str]:
        """Id and name of this machine."""
        return ray.get_runtime_context().get_node_id(), socket.gethostname()

    def open(self, what: tuple[Experiment, int, int]) -> tuple[str, Any]:
        """As `evoaim.host.reply`; the slot is the first, as Ray shows an actor only its GPUs."""
        experiment, self._slot, n = what
        self._calibrated = experiment.calibration is not None
        return self._reply("open", (experiment, 0, n))

    def prepare(self, run: RunDir) -> tuple[str, Any]:
        """As `evoaim.host.reply`."""
        needed = run.importance if self._slot else run.path  # the first worker measures
        if self._calibrated and not needed.exists():
            error = ConfigError(
                f"machine {socket.gethostname()} has no {needed}; the run directory must be on a "
                "disk that all machines share"
            )
            return "refused", error
        return self._reply("prepare", run)

    def perform(self, job: Any) -> tuple[str, Any]:
        """As `evoaim.host.reply`."""
        return self._reply("perform", job)

    def _reply(self, kind: str, what: Any) -> tuple[str, Any]:
        kind, done = reply(self._host, kind, what)
        if kind == "refused" and self._strange:
            done = type(done)(f"{done} ({self._strange})")
        return kind, done


class _Actor:
    """A worker by its handle."""

    def __init__(self, options: dict[str, Any]) -> None:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        inside = ray.remote(EvoaimWorker).options(**options)
        self.handle = inside.remote(
            str(Path.cwd()), socket.gethostname(), int(threads) if threads.isdigit() else None
        )
        self.place = self.handle.where.remote()
        self.replies: deque[Any] = deque()

    def send(self, kind: str, what: Any) -> None:
        """See `evoaim.crew.Hand`."""
        self.replies.append(getattr(self.handle, kind).remote(what))

    def receive(self) -> tuple[str, Any]:
        """See `evoaim.crew.Hand`."""
        try:
            # copied: arrays would remain in Ray's store, and not be writable
            reply: tuple[str, Any] = deepcopy(ray.get(self.replies.popleft()))
        except (RayActorError, OutOfMemoryError, ObjectLostError) as error:
            raise Lost(_cause(error)) from None
        return reply

    def kill(self) -> None:
        """See `evoaim.crew.Hand`."""
        ray.kill(self.handle, no_restart=True)


class RayWorkers:
    """Ray actors behind `evoaim.crew.Agency`."""

    def __init__(self, experiment: Experiment, n: int, address: str) -> None:
        """Join the cluster and have `n` actors started, which load nothing yet.

        Raises:
            ConfigError: there is no such cluster, or it has no room for so many.
        """
        self._experiment = experiment
        self._joined = _join(address, n)
        self._options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        self._started: list[_Actor] = []
        try:
            self._options["num_gpus"] = _gpus(experiment.models.device)
            self._started = [_Actor(self._options) for _ in range(n)]
            self._crowd = self._wait(n)
        except BaseException:
            for actor in self._started:
                actor.kill()
            self.close()
            raise

    @classmethod
    def start(cls, experiment: Experiment, n: int, address: str) -> Crew[_Actor]:
        """Workers of a cluster.

        Args:
            experiment: what is searched.
            n: how many.
            address: "auto": the cluster that runs on this machine, or the one that this process
                has joined before and stays in; "local": a Ray of this machine's own, which ends
                with them; "ray://HOST:PORT": from outside; "HOST:PORT": from a machine in it.

        Raises:
            ConfigError, SpaceError, FitnessError: there is no such cluster, it has no room for so
                many, or a worker cannot open models, tasks or texts.
        """
        return Crew(cls(experiment, n, address), experiment, n)

    def hire(self, slot: int) -> _Actor:
        """See `evoaim.crew.Agency`."""
        actor = self._started.pop() if self._started else _Actor(self._options)
        actor.send("open", (self._experiment, slot, self._crowd))
        return actor

    def ready(self, hands: Sequence[_Actor], seconds: float | None) -> list[_Actor]:
        """See `evoaim.crew.Agency`."""
        first = {hand.replies[0]: hand for hand in hands}
        ready, _ = ray.wait(list(first), timeout=seconds)
        return [first[reference] for reference in ready]

    def close(self) -> None:
        """See `evoaim.crew.Agency`; a Ray that was started here ends."""
        if self._joined:
            ray.shutdown()

    def _wait(self, n: int) -> int:
        """Wait for the actors; how many share the fullest machine, and so its cores."""
        places, missing = ray.wait(
            [actor.place for actor in self._started], num_returns=n, timeout=PATIENCE
        )
        if missing:
            kind = "GPU" if self._options["num_gpus"] else "CPU"
            raise ConfigError(
                f"--workers {n}: {len(places)} Ray actors have started after {PATIENCE:g} s; each "
                f"takes a {kind}, of which the cluster has "
                f"{ray.cluster_resources().get(kind, 0):g} and "
                f"{ray.available_resources().get(kind, 0):g} are left; ask for fewer workers, or "
                "add machines"
            )
        try:
            found = Counter(ray.get(places))
        except RayActorError as error:
            raise ConfigError(f"--workers {n}: a Ray actor {_cause(error)}") from None
        return max(found.values())


def _join(address: str, n: int) -> bool:
    """Make this process a cluster's driver, unless it is already: whether it was not.

    Raises:
        ConfigError: there is no such cluster.
    """
    if ray.is_initialized():
        if address != "auto":
            raise ConfigError(
                f"--ray {address}: this process has joined a Ray already; `auto` takes that one, "
                "`ray.shutdown()` leaves it"
            )
        return False
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=n,
                object_store_memory=_STORE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return True
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), REACH).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ImportError, AuthenticationError) as error:
        raise ConfigError(
            f"--ray {address}: {error}; expected: auto (a cluster that runs on this machine: "
            "`ray start --head`), local, ray://HOST:PORT or HOST:PORT"
        ) from None
    return True


def _gpus(device: str) -> int:
    """GPUs of an actor."""
    if device.startswith("cuda:"):
        raise ConfigError(f"models.device: {device} with --ray; `cuda` gives every actor its own")
    return int(device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0))


def _cause(error: Exception) -> str:
    """What Ray says of an actor's end, as a verb."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return "was killed by Ray, as its machine ran out of memory"
    _, _, why = text.partition("The actor is dead because ")
    if why.startswith("its worker process has died"):
        return "was killed or has crashed (out of memory?)"
    return f"was lost: {why or text}"
