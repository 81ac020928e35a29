"""The errors of this package, and the one sentence that offers the nearest valid name."""

from collections.abc import Iterable
from difflib import get_close_matches


class FitnessError(ValueError):
    """A task, metric, panel or estimator is wrong; the message says what, where and what to try."""


class ScoringError(RuntimeError):
    """This model cannot be scored; a property of the candidate, not of the user's input."""


def unknown(noun: str, name: str, allowed: Iterable[str]) -> str:
    """Say that `name` is no valid `noun`, and offer the nearest valid names."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=3)
    shown = near or names[:20]
    return f"unknown {noun} '{name}'; {'did you mean' if near else 'known'}: {', '.join(shown)}"
