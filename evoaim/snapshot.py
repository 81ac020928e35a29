"""What a search tells while it runs, and to whom."""

from dataclasses import dataclass
from typing import Protocol

from evoaim.results import Estimates


@dataclass(frozen=True)
class Snapshot:
    """How far a search has come."""

    done: int
    budget: int | None
    failed: int
    raced: int  # dropped before all of their documents were run
    front: int
    hypervolume: float
    parents_hypervolume: float
    best: Estimates  # per objective
    seconds: float  # of evaluation, earlier sessions included
    documents: int  # run for candidates; promotion, base and experts not counted


class Progress(Protocol):
    """Who is told how the search goes."""

    def stage(self, text: str) -> None:
        """A new stage of the run begins."""

    def candidate(self, snapshot: Snapshot) -> None:
        """A candidate has been evaluated (or, on resume, all recorded ones have been replayed)."""

    def scored(self, done: int, total: int) -> None:
        """So many of the models that this stage scores are done."""


@dataclass(frozen=True)
class Silent:
    """Tells nobody."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def candidate(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def scored(self, done: int, total: int) -> None:
        """Nothing."""
