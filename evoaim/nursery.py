"""Where worker processes come from: a process that has imported everything and runs no thread.

Forking it is safe at any time, whereas the search's process may by then hold locks in threads, or
have used CUDA or OpenMP, which do not outlive a fork. If it has not yet, it is forked itself, so
that what it has imported is in memory once; otherwise a new interpreter is started.

As a script: `python -m evoaim.nursery SOCKET LIFELINE MODEL`, the first two file descriptors.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

import torch

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.host import Host, reply
from evoaim.kernel import native
from evoaim.live import import_classes

FORK, STATUS = b"f", b"s"
_ANSWER = 32  # bytes
PROBE = 5.0  # seconds that a forked process has for a sum


@dataclass(frozen=True)
class Nursery:
    """The process that forks, by its socket.

    Workers end when the file descriptor `_lifeline` is closed, however this process ends.
    """

    pid: int
    _reap: Callable[[], object]  # waits for its end
    _socket: socket.socket
    _lifeline: int

    @classmethod
    def open(cls, model: str) -> "Nursery":
        """Start the process that forks: what it has imported is shared by all workers.

        Args:
            model: folder or hub id, whose classes are imported.

        Raises:
            ConfigError: there is no such model.
        """
        import_classes(Checkpoint.open(model))
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        if _forks_well():

            def nurse() -> None:
                ours.close()
                os.close(write)
                _nurse(theirs, read)

            pid = _frozen(nurse)
            reap: Callable[[], object] = partial(os.waitpid, pid, 0)
        else:
            fds = [str(fd) for fd in (theirs.fileno(), read)]
            command = [sys.executable, "-m", __name__, *fds, model]
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(), read))
            pid, reap = process.pid, process.wait
        theirs.close()
        os.close(read)
        return cls(pid, reap, ours, write)

    def fork(self) -> tuple[int, Connection]:
        """A new worker's process id and its pipe."""
        ours, theirs = Pipe()
        with theirs:
            return self._ask(FORK, [theirs.fileno()]), ours

    def status(self, pid: int) -> int:
        """Wait until a worker has ended; its exit code, or minus the signal that ended it."""
        return self._ask(STATUS + str(pid).encode(), [])

    def _ask(self, request: bytes, fds: list[int]) -> int:
        try:
            socket.send_fds(self._socket, [request], fds) if fds else self._socket.send(request)
            reply = self._socket.recv(_ANSWER)
        except ConnectionError:
            reply = b""
        if not reply:
            raise ConfigError(
                "--workers: the process that workers are forked from has ended (out of memory?); "
                "what is recorded is kept, the same command goes on from there"
            )
        return int(reply)

    def kill(self, pid: int) -> None:
        """End a worker now."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the process go."""
        os.close(self._lifeline)
        self._socket.close()
        with suppress(ChildProcessError):
            self._reap()


def cause(status: int) -> str:
    """What an exit status says of a process, as a verb."""
    if status == -signal.SIGKILL:
        return "was killed (signal 9; out of memory?)"
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with status {status}"


def _frozen(child: Callable[[], None]) -> int:
    gc.collect()
    gc.freeze()  # or every worker's collector would look through what is shared, and so copy it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a progress bar's thread
        pid = _forked(child)
    gc.unfreeze()  # here alone
    return pid


def _forked(child: Callable[[], None]) -> int:
    """A process that does this and ends; what fails there must not go on with our own callers."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return pid


def _forks_well() -> bool:
    """Whether a fork of this process can still compute; tried, as OpenMP does not tell."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False

    def compute() -> None:
        os.close(2)  # whatever a library has to say of it
        torch.set_num_threads(2)
        x = torch.ones(256, 256)
        os._exit(0 if float((x @ x + x).sum()) else 1)

    pid = _frozen(compute)
    end = time.monotonic() + PROBE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def _nurse(requests: socket.socket, lifeline: int) -> NoReturn:
    """Fork at every request until the other side has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's, which lets workers go
    native.warm()  # once for all workers
    while True:
        request, pipes, _, _ = socket.recv_fds(requests, _ANSWER, 1)
        if not request:
            os._exit(0)
        if request == FORK:

            def work(pipe: int = pipes[0]) -> None:
                requests.close()
                _work(Connection(pipe), lifeline)

            pid = _forked(work)
            os.close(pipes[0])
            requests.send(str(pid).encode())
            continue
        _, status = os.waitpid(int(request[len(STATUS) :]), 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _work(pipe: Connection, lifeline: int) -> NoReturn:
    """Do what the pipe says until the search has gone."""

    def watch() -> None:
        os.read(lifeline, 1)  # returns when the other end is closed
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    host = Host()
    while True:
        try:
            kind, what = pipe.recv()
            pipe.send(reply(host, kind, what))
        except (EOFError, ConnectionError):
            os._exit(0)


if __name__ == "__main__":
    import_classes(Checkpoint.open(sys.argv[3]))
    _nurse(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
