"""What is checked before an optimizer is built: genes, objectives, their number, the seed."""

from collections.abc import Mapping, Sequence

from evoaim.errors import ConfigError
from evoaim.registry import OPTIMIZERS
from search_spaces.genes import Choice, Gene


def check_objectives(name: str, n: int) -> None:
    """Refuse several objectives for an optimizer that handles one.

    Raises:
        ConfigError: the optimizer cannot handle `n` objectives, or there is no such optimizer.
    """
    if n > 1 and OPTIMIZERS[name].OBJECTIVES == "one":
        able = ", ".join(other for other in OPTIMIZERS if OPTIMIZERS[other].OBJECTIVES == "many")
        raise ConfigError(
            f"objectives: optimizer '{name}' handles one, got {n}; "
            f"take one of {able}, or put all tasks under one objective"
        )


def check_question(genes: Sequence[Gene], goals: Mapping[str, str], seed: int) -> None:
    """Check what a search is about.

    Raises:
        ConfigError: no genes, several of one name, none that can vary, a wrong goal or seed.
    """
    names = [g.name for g in genes]
    twice = next((n for n in names if names.count(n) > 1), None)
    if not names or twice is not None:
        raise ConfigError(f"genes: several named '{twice}'" if twice else "genes: none given")
    if all(isinstance(g, Choice) and len(g.options) == 1 for g in genes):
        raise ConfigError(f"genes: none of {', '.join(names)} has a second option")
    wrong = [f"{n}: {g!r}" for n, g in goals.items() if g not in ("maximize", "minimize")]
    if wrong or not goals:
        raise ConfigError(
            f"goals: name -> 'maximize' or 'minimize' expected, got {', '.join(wrong) or 'none'}"
        )
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed: a whole number from 0 to 2**32 - 1 expected, got {seed}")
