"""Work on models as jobs and answers, and who does it: this process, other ones, other machines."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from evoaim.errors import CandidateError
from evoaim.evaluator import Evaluator, never
from evoaim.race import Race
from evoaim.run_dir import RunDir
from fitness.types import Panel, Scores, Split
from search_spaces.recipe import Recipe

ATTEMPTS = 3  # at a job whose worker is lost, before its candidate counts as failed


@dataclass(frozen=True, eq=False)
class Job:
    """A recipe to be scored.

    Args:
        recipe: is materialized once.
        split: which documents.
        panels: scored one after the other.
        race: is asked after each whether that is enough.
    """

    recipe: Recipe
    split: Split
    panels: tuple[Panel, ...]
    race: Race | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a job: scores, or the reason why there are none."""

    scores: Scores
    seconds: float
    reason: str = ""
    look: float = 0.0  # the share of the panels that was run, where there was a race
    beaten: bool = False  # in the race

    def given(self) -> Scores:
        """The scores.

        Raises:
            CandidateError: there are none.
        """
        if self.reason:
            raise CandidateError(self.reason)
        return self.scores


class Workers(Protocol):
    """Who scores recipes. Answers come in any order; the scores do not depend on who scored."""

    n: int  # jobs that are run at the same time
    devices: tuple[str, ...]  # on which

    def prepare(self, run: RunDir) -> None:
        """Measure what merging needs beside the weights, or read it from the run directory.

        Raises:
            ConfigError, FitnessError: a worker cannot load models, tasks or texts.
        """

    def submit(self, ticket: int, job: Job) -> None:
        """Line up a job."""

    def answer(self) -> tuple[int, Answer]:
        """Wait for the next answer to a job that was submitted: its ticket, and what came of it."""

    def close(self) -> None:
        """Let everybody go; what they are still at is lost."""


class Alone:
    """This process does all the work, one job after the other."""

    def __init__(self, evaluator: Evaluator) -> None:
        """Load the live model, so that one that cannot be loaded is refused before anything."""
        evaluator.engine.live  # noqa: B018
        self.n = 1
        self.devices: tuple[str, ...] = (str(evaluator.engine.merger.device),)
        self._evaluator = evaluator
        self._jobs: deque[tuple[int, Job]] = deque()

    def prepare(self, run: RunDir) -> None:
        """See `Workers`."""
        self._evaluator = self._evaluator.ready(run.importance, run.statistics)

    def submit(self, ticket: int, job: Job) -> None:
        """See `Workers`."""
        self._jobs.append((ticket, job))

    def answer(self) -> tuple[int, Answer]:
        """See `Workers`."""
        ticket, job = self._jobs.popleft()
        return ticket, perform(self._evaluator, job)

    def close(self) -> None:
        """See `Workers`."""


def perform(evaluator: Evaluator, job: Job) -> Answer:
    """Do a job here and now."""
    begin = time.perf_counter()
    race = job.race
    try:
        scores = evaluator.score(job.recipe, job.split, job.panels, race or never)
    except CandidateError as error:
        return Answer({}, time.perf_counter() - begin, str(error))
    seconds = time.perf_counter() - begin
    if race is None:
        return Answer(scores, seconds)
    return Answer(scores, seconds, "", race.look, race.beaten)


def answers(workers: Workers, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
    """Have jobs done, each with its index, in the order in which they are finished."""
    for i, job in enumerate(jobs):
        workers.submit(i, job)
    for _ in jobs:
        yield workers.answer()
