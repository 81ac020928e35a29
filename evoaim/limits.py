"""When a search ends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """Stop when the hypervolume grew by no more than `gain` of itself over `candidates`."""

    candidates: int
    gain: float


@dataclass(frozen=True)
class Limits:
    """After so many distinct candidates, seconds of evaluating them, or on a plateau."""

    candidates: int | None = None
    seconds: float | None = None
    plateau: Plateau | None = None
