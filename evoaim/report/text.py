"""How numbers are written in reports and notes."""

from fitness.types import Estimate


def number(value: float) -> str:
    """A value with as many digits as anyone reads: 0.812, −3.250, 23.41, 1.2e+05."""
    return f"{value:.{digits(value)}f}".replace("-", "−") if abs(value) < 1e4 else f"{value:.3g}"


def digits(value: float) -> int:
    """Decimals that `number` writes."""
    return 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1


def estimate(e: Estimate) -> str:
    """A value with its standard error, never broken over two lines: 0.812 ± 0.011."""
    return f"{number(e.value)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{stderr(e)}"


def stderr(e: Estimate) -> str:
    """A standard error with the decimals of its value."""
    return f"{e.stderr:.{digits(e.value)}f}" if abs(e.value) < 1e4 else f"{e.stderr:.2g}"


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
