"""What a candidate must keep: `base_perplexity <= 1.05 * base`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evoaim.errors import ConfigError
from fitness.types import Estimate
from search_spaces.errors import unknown

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LINE = re.compile(r"(?P<name>.+?)\s*(?P<sign><=|>=)\s*(?P<bound>.+)")
_RELATIVE = re.compile(
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<model>[^\W\d][\w-]*)"
    rf"(?:\s*\*\s*(?P<times>{_NUMBER}))?(?:\s*(?P<plus>[+-])\s*(?P<offset>{_NUMBER}))?"
)


@dataclass(frozen=True)
class Constraint:
    """`objective sign factor * model + offset`; without a model the bound is the offset."""

    text: str
    objective: str
    sign: Literal["<=", ">="]
    factor: float
    model: str | None
    offset: float

    def violation(
        self, mine: Mapping[str, Estimate], models: Mapping[str, Mapping[str, Estimate]]
    ) -> float:
        """By what share of the bound a candidate misses it; 0 if it does not.

        A bound relative to a model compares on the documents that the candidate ran, too, so that
        both err alike.

        Args:
            mine: the candidate's estimates by objective name.
            models: those of base and experts, by name.
        """
        own = mine[self.objective]
        if self.model is None:
            value, bound = own.value, self.offset
        else:
            value = own.ranked
            bound = self.factor * models[self.model][self.objective].ranked + self.offset
        excess = value - bound if self.sign == "<=" else bound - value
        return max(0.0, excess) / max(abs(bound), 1e-12)


def parse(line: str, objectives: Sequence[str], models: Sequence[str]) -> Constraint:
    """Read one line of `keep`.

    Raises:
        ConfigError: no comparison, or an objective or model that does not exist.
    """
    form = (
        "'OBJECTIVE <= BOUND' or 'OBJECTIVE >= BOUND' expected, where a bound is a number, or a "
        "model's value as in '1.05 * base' or 'base + 0.2'"
    )
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ConfigError(f"keep: {form}, got '{line}'")
    name, sign, bound = found["name"], found["sign"], found["bound"].strip()
    if name not in objectives:
        raise ConfigError(f"keep: '{line}': {unknown('objective', name, objectives)}")
    direction: Literal["<=", ">="] = "<=" if sign == "<=" else ">="
    if re.fullmatch(_NUMBER, bound):
        return Constraint(line, name, direction, 0.0, None, float(bound))
    relative = _RELATIVE.fullmatch(bound)
    if relative is None:
        raise ConfigError(f"keep: {form}, got '{line}'")
    if relative["model"] not in models:
        raise ConfigError(f"keep: '{line}': {unknown('model', relative['model'], models)}")
    offset = float(f"{relative['plus']}{relative['offset']}") if relative["offset"] else 0.0
    factor = float(relative["factor"] or 1.0) * float(relative["times"] or 1.0)
    return Constraint(line, name, direction, factor, relative["model"], offset)


def total_violation(
    constraints: Iterable[Constraint],
    mine: Mapping[str, Estimate],
    models: Mapping[str, Mapping[str, Estimate]],
) -> float:
    """The sum over all constraints; 0: the candidate is feasible."""
    return sum(c.violation(mine, models) for c in constraints)
