"""Run as a script by test_kill.py: searches in forked processes that are killed at random moments.

Usage: kill_runner.py EXPERIMENT.json FOLDER KILLS. Forks before any torch operation has run, so
that one start of the libraries serves all processes. Prints the trials, whole and resumed, as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import evoaim.evaluator  # imported once, for all children
from evoaim import Experiment, run_search
from evoaim.results import Results
from evoaim.run_dir import RunDir

assert evoaim.evaluator


class Tell:
    """Writes a byte when the first candidate is about to be proposed, and after every candidate."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def stage(self, text: str) -> None:
        if text == "searching":
            os.write(self.fd, b"x")

    def candidate(self, snapshot: object) -> None:
        os.write(self.fd, b"x")


def child(spec: Experiment, folder: Path) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        run_search(spec, folder, Tell(write))
        os._exit(0)
    os.close(write)
    return pid, read


def trials(folder: Path) -> list[object]:
    found = Results.read(RunDir(folder)).trials
    return [
        [
            t.number,
            t.state,
            dict(t.genome),
            {n: [e.value, e.stderr, e.ranked, e.documents] for n, e in t.estimates.items()},
            t.violation,
            t.raced,
        ]
        for t in found
    ]


def main() -> None:
    spec = Experiment.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    folder, kills = Path(sys.argv[2]), int(sys.argv[3])
    pid, read = child(spec, folder / "whole")
    os.read(read, 1)
    begin = time.monotonic()
    os.waitpid(pid, 0)
    candidates = spec.budget.candidates
    assert candidates is not None
    each = (time.monotonic() - begin) / candidates
    killed = 0
    for _ in range(kills):  # together they let fewer candidates through than there are
        pid, read = child(spec, folder / "killed")
        for _ in range(random.randint(1, candidates // (kills + 1))):
            os.read(read, 1)
        time.sleep(random.uniform(0.0, each))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        os.close(read)
    pid, read = child(spec, folder / "killed")
    _, status = os.waitpid(pid, 0)
    assert status == 0
    whole, resumed = trials(folder / "whole"), trials(folder / "killed")
    print(json.dumps({"killed": killed, "whole": whole, "resumed": resumed}))


if __name__ == "__main__":
    main()
