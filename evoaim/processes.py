"""Workers on one machine: processes that share what was loaded before them, one engine each.

A process of one thread, which has imported everything and computed nothing, is forked first; all
workers are forked from it, also those that replace a lost one. They share its memory, and on the
CPU the pages of base and experts, which are mapped files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from evoaim.config import Experiment
from evoaim.crew import Crew, Lost
from evoaim.nursery import Nursery, cause


@dataclass(eq=False)
class _Process:
    """A worker process, by its pipe."""

    nursery: Nursery
    pid: int
    pipe: Connection

    def send(self, kind: str, what: Any) -> None:
        """See `evoaim.crew.Hand`."""
        if not self.pipe.closed:
            try:
                self.pipe.send((kind, what))
            except ConnectionError:
                return  # it has died; `receive` finds that out

    def receive(self) -> tuple[str, Any]:
        """See `evoaim.crew.Hand`."""
        try:
            reply: tuple[str, Any] = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.pipe.close()
            raise Lost(cause(self.nursery.status(self.pid))) from None
        return reply

    def kill(self) -> None:
        """See `evoaim.crew.Hand`; once it is known to have ended, its id may be another's."""
        if not self.pipe.closed:
            self.nursery.kill(self.pid)


@dataclass(frozen=True)
class Processes:
    """Worker processes behind `evoaim.crew.Agency`."""

    nursery: Nursery
    experiment: Experiment
    n: int

    @classmethod
    def start(cls, experiment: Experiment, n: int) -> Crew[_Process]:
        """Start workers; cheapest before this process has loaded or computed anything.

        Raises:
            ConfigError, SpaceError, FitnessError: a worker cannot open models, tasks or texts.
        """
        return Crew(cls(Nursery.open(experiment.models.base), experiment, n), experiment, n)

    def hire(self, slot: int) -> _Process:
        """See `evoaim.crew.Agency`."""
        worker = _Process(self.nursery, *self.nursery.fork())
        worker.send("open", (self.experiment, slot, self.n))
        return worker

    def ready(self, hands: Sequence[_Process], seconds: float | None) -> list[_Process]:
        """See `evoaim.crew.Agency`."""
        found = {hand.pipe: hand for hand in hands}
        return [found[pipe] for pipe in wait(list(found), seconds)]  # type: ignore[index]

    def close(self) -> None:
        """See `evoaim.crew.Agency`."""
        self.nursery.close()
