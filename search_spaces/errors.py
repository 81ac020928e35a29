"""The error of this package, and the one sentence that offers the nearest valid name."""

from collections.abc import Iterable
from difflib import get_close_matches


class SpaceError(ValueError):
    """A search space, genome or recipe is wrong; the message says what, where and what to try."""


def unknown(noun: str, name: str, allowed: Iterable[str]) -> str:
    """Say that `name` is no valid `noun`, offer the nearest one, and list what is allowed."""
    names = sorted(allowed)
    near = get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {noun} '{name}'{hint} (allowed: {', '.join(names) or 'none'})"
