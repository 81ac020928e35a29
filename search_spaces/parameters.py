"""Declaration of a hyper-parameter: the single source of its meaning, default and range."""

import math
import sys
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import SpaceError

Setting = float | bool | str
ALWAYS = "always"  # of `Parameter.relative`


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter: what is legal, what is searched, what holds when nothing is said.

    Args:
        doc: one line, with the symbol used in the source.
        default: value when a recipe says nothing; None makes the parameter required.
        published: the value its paper recommends; a search starts there too.
        identity: the value at which a lone expert comes out unchanged; None: no such value.
        legal: closed interval of accepted values; ignored for switches.
        search: interval that search spaces draw from by default; None: not searched by default.
        log: search the logarithm.
        per_model: every expert has its own value.
        switch: the parameter is true or false.
        choices: the parameter is one of these names; searched if asked, never by default.
        whole: the parameter is a whole number.
        relative: while this switch of the method is on, only the ratios of the models' values
            matter; "always": in any case; "": they matter themselves.
        experts: the parameter counts experts: more than there are make no difference.
    """

    doc: str
    default: Setting | None = None
    published: Setting | None = None
    identity: Setting | None = None
    legal: tuple[float, float] = (-math.inf, math.inf)
    search: tuple[float, float] | None = None
    log: bool = False
    per_model: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()
    whole: bool = False
    relative: str = ""
    experts: bool = False

    def check(self, name: str, value: Any) -> Setting:
        """`value`, if it is legal.

        Raises:
            SpaceError: it has the wrong type or is out of range.
        """
        if self.switch:
            if not isinstance(value, bool):
                raise SpaceError(f"parameter '{name}': true or false expected, got {value!r}")
            return value
        if self.choices:
            if value not in self.choices:
                allowed = ", ".join(self.choices)
                raise SpaceError(f"parameter '{name}': one of {allowed} expected, got {value!r}")
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpaceError(f"parameter '{name}': a number expected, got {value!r}")
        if self.whole and value != round(value):
            raise SpaceError(f"parameter '{name}': a whole number expected, got {value!r}")
        low, high = self.legal
        if not (low <= value <= high and abs(value) <= sys.float_info.max):
            raise SpaceError(f"parameter '{name}': must lie in [{low:g}, {high:g}], got {value!r}")
        return float(value)


# Activation-Informed Merging, arXiv:2502.02421; the same for every merge method.
AIM_PARAMETERS = {
    "omega": Parameter(
        "AIM strength: 1 is off, 0 freezes the most active input channels at base",
        default=1.0,
        published=0.4,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.0, 1.0),
    ),
    "gamma": Parameter(
        "exponent of the importance: below 1 protects more channels, above 1 fewer",
        default=1.0,
        published=1.0,
        identity=1.0,
        legal=(0.01, 100.0),
        search=(0.25, 4.0),
        log=True,
    ),
    "statistic": Parameter(
        "what is taken of an input channel's activations x: mean |x|, root mean square, maximum, "
        "standard deviation",
        default="mean_abs",
        published="mean_abs",
        identity="mean_abs",
        choices=("mean_abs", "rms", "max_abs", "std"),
    ),
    "normalization": Parameter(
        "how importance reaches [0, 1] per weight: over the maximum, the 0.99 quantile or twice "
        "the mean of the channels, or as a rank",
        default="max",
        published="max",
        identity="max",
        choices=("max", "quantile", "mean", "rank"),
    ),
}
