"""How numbers are written in reports and notes."""

from collections.abc import Sequence

from fitness.types import Estimate

_SHARES = {2: "half", 3: "a third", 4: "a quarter"}


def number(value: float) -> str:
    """A value with as many digits as anyone reads: 0.812, −3.250, 23.41, 1.2e+05."""
    return f"{value:.{digits(value)}f}".replace("-", "−") if abs(value) < 1e4 else f"{value:.3g}"


def digits(value: float) -> int:
    """Decimals that `number` writes."""
    return 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1


def estimate(e: Estimate) -> str:
    """A value with its standard error, never broken over two lines: 0.812 ± 0.011."""
    return f"{number(e.value)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{stderr(e)}"


def searched(e: Estimate) -> str:
    """An estimate from search documents; the value alone where it was all of them: 0.812."""
    return estimate(e) if e.stderr else number(e.value)


# How an estimate of each level is written.
WRITTEN = {"report": estimate, "promoted": searched, "search": searched}


def stderr(e: Estimate) -> str:
    """A standard error with the decimals of its value."""
    return f"{e.stderr:.{digits(e.value)}f}" if abs(e.value) < 1e4 else f"{e.stderr:.2g}"


def share(part: int, whole: int) -> str:
    """A part of a whole as anyone says it: half, a third, a 12th, 0.83."""
    n = round(whole / part)
    if whole < 1.75 * part:
        return f"{part / whole:.2f}"
    article = "an" if str(n).startswith("8") or n in (11, 18) else "a"
    return _SHARES.get(n, f"{article} {n:,}{_ending(n)}")


def _ending(n: int) -> str:
    return "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def bound(violation: float) -> str:
    """By how much constraints are missed: 0.12 of the bound."""
    return f"{violation:.2g} of the bound"


def enumerated(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plural(n: int, word: str) -> str:
    """A count with its noun: 1 trial, 3 trials."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def change(difference: float | None) -> str:
    """A difference with its sign: +0.012, −0.034."""
    if difference is None:
        return "–"
    sign = "+" if difference > 0 else ""
    return f"{sign}{number(difference)}" if round(difference, digits(difference)) else number(0.0)


def duration(seconds: float) -> str:
    """A time as anyone says it: 42 s, 7 min, 3.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
