"""Jobs handed to workers that may be lost on the way, whatever the workers are.

Whoever is lost takes only its candidate's current attempt along: another one is hired in its place,
and the job goes to whoever is free first.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.run_dir import RunDir
from evoaim.work import ATTEMPTS, Answer, Job


class Lost(Exception):
    """A worker is gone; the message says how, as a verb: "was killed"."""


class Hand(Protocol):
    """One worker. It does what it is sent, in this order; see `evoaim.host.reply`."""

    def send(self, kind: str, what: Any) -> None:
        """Send something to do; if the worker is gone, `receive` says so."""

    def receive(self) -> tuple[str, Any]:
        """Wait for the next reply.

        Raises:
            Lost: there will be none.
        """

    def kill(self) -> None:
        """End it now, if it has not ended; `receive` raises `Lost` then."""


H = TypeVar("H", bound=Hand)


class Agency(Protocol[H]):
    """Where workers come from."""

    def hire(self, slot: int) -> H:
        """A new worker, which has been sent `open`."""

    def ready(self, hands: Sequence[H], seconds: float | None) -> Sequence[H]:
        """Wait until some have a reply or are lost, for so long at most; which."""

    def close(self) -> None:
        """Let go of everything that is not a worker."""


@dataclass(eq=False)
class _Place(Generic[H]):
    """A worker, and the job it is at."""

    slot: int
    hand: H
    owed: int = 1  # replies that come before it can do jobs
    vain: int = 0  # predecessors in a row that were lost before they could
    ticket: int | None = None
    begun: float = 0.0
    overdue: bool = False


@dataclass(eq=False)
class _Task:
    """A job, and how often its worker was lost."""

    job: Job
    lost: int = 0


class Crew(Generic[H]):
    """Workers of an agency, behind `evoaim.work.Workers`."""

    def __init__(self, agency: Agency[H], experiment: Experiment, n: int) -> None:
        """Hire them.

        Raises:
            ConfigError, SpaceError, FitnessError: a worker cannot open models, tasks or texts.
        """
        self.n = n
        self.devices: tuple[str, ...] = ()
        self._agency, self._experiment = agency, experiment
        minutes = experiment.budget.candidate_minutes
        self._patience = None if minutes is None else 60 * minutes
        self._run: RunDir | None = None
        self._tasks: dict[int, _Task] = {}
        self._queue: deque[int] = deque()
        self._places: list[_Place[H]] = []
        try:
            for slot in range(n):
                self._places.append(_Place(slot, agency.hire(slot)))
            self.devices = tuple(str(self._reply(place)) for place in self._places)
        except BaseException:
            self.close()
            raise

    def prepare(self, run: RunDir) -> None:
        """See `evoaim.work.Workers`; the first one measures, the others read what it has written.

        Raises:
            ConfigError: also if what a worker has written is not found by this process.
        """
        self._run = run
        for some in (self._places[:1], self._places[1:]):
            for place in some:
                place.owed += 1
                place.hand.send("prepare", run)
            for place in some:
                self._reply(place)
            # Listing the folder asks a network disk anew, asking for the file might not.
            measured = self._experiment.calibration is not None
            if measured and run.importance not in run.path.iterdir():
                raise ConfigError(
                    f"{run.importance}: a worker has measured the importance and written it, but "
                    "not here; the run directory must be on a disk that all machines share"
                )

    def submit(self, ticket: int, job: Job) -> None:
        """See `evoaim.work.Workers`."""
        self._tasks[ticket] = _Task(job)
        self._queue.append(ticket)
        self._hand_out()

    def answer(self) -> tuple[int, Answer]:
        """See `evoaim.work.Workers`; a job is begun `ATTEMPTS` times at most."""
        while True:
            self._hand_out()
            at = {p.hand: p for p in self._places if p.owed or p.ticket is not None}
            for hand in self._agency.ready(list(at), self._time_left()):
                done = self._heard(at[hand])
                if done is not None:
                    return done
            self._kill_overdue()

    def close(self) -> None:
        """See `evoaim.work.Workers`."""
        for place in self._places:
            place.hand.kill()
        self._agency.close()

    def _hand_out(self) -> None:
        for place in self._places:
            if self._queue and place.ticket is None and not place.owed:
                place.ticket = self._queue.popleft()
                place.begun = time.monotonic()
                place.hand.send("perform", self._tasks[place.ticket].job)

    def _heard(self, place: _Place[H]) -> tuple[int, Answer] | None:
        """Take a reply; an answer, if it is one or the last attempt was lost."""
        ticket = place.ticket
        try:
            what = _unless_refused(place.hand.receive())
        except Lost as lost:
            self._replace(place, str(lost))
            if ticket is None:
                return None
            self._tasks[ticket].lost += 1
            if self._tasks[ticket].lost < ATTEMPTS:
                self._queue.appendleft(ticket)
                return None
            why = self._why(place, lost)
            what = Answer({}, 0.0, f"lost {ATTEMPTS} workers, the last one {why}")
        else:
            if place.owed:
                place.owed -= 1
                return None
        place.ticket = None
        assert ticket is not None
        del self._tasks[ticket]
        return ticket, what

    def _replace(self, place: _Place[H], why: str) -> None:
        """Another worker in a lost one's place."""
        vain = place.vain + 1 if place.owed else 0
        if vain >= ATTEMPTS:
            raise self._lost_while_loading(why)
        place.hand.kill()
        successor = _Place(place.slot, self._agency.hire(place.slot), vain=vain)
        self._places[place.slot] = successor
        if self._run is not None:
            successor.owed += 1
            successor.hand.send("prepare", self._run)

    def _why(self, place: _Place[H], lost: Lost) -> str:
        minutes = self._experiment.budget.candidate_minutes
        if place.overdue:
            return f"took longer than budget.candidate_minutes, {minutes:g}"
        return str(lost)

    def _reply(self, place: _Place[H]) -> Any:
        try:
            what = _unless_refused(place.hand.receive())
        except Lost as lost:
            raise self._lost_while_loading(str(lost)) from None
        place.owed -= 1
        return what

    def _lost_while_loading(self, why: str) -> ConfigError:
        return ConfigError(f"--workers {self.n}: a worker {why} while it was loading")

    def _time_left(self) -> float | None:
        begun = [p.begun for p in self._places if p.ticket is not None]
        if self._patience is None or not begun:
            return None
        return max(0.0, min(begun) + self._patience - time.monotonic())

    def _kill_overdue(self) -> None:
        for place in self._places:
            over = self._patience is not None and time.monotonic() - place.begun >= self._patience
            if place.ticket is not None and over:
                place.overdue = True
                place.hand.kill()


def _unless_refused(reply: tuple[str, Any]) -> Any:
    kind, what = reply
    if kind == "refused":
        raise what
    if kind == "crashed":
        raise RuntimeError(f"a worker has failed:\n{what}")
    return what
