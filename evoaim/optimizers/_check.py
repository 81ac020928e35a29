"""The one check between an optimizer and the number of objectives."""

from evoaim.errors import ConfigError
from evoaim.registry import OPTIMIZERS


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
