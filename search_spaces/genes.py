"""Genes: named searchable numbers and choices, their unit-interval coding, their conditions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.errors import SpaceError

Value = float | int | str | bool
Genome = Mapping[str, Value]  # the active genes, in the order of the space's genes


@dataclass(frozen=True)
class When:
    """A gene is active only while the gene named `gene` has one of `values`."""

    gene: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Real:
    """A number in [low, high]; `log` searches its logarithm; values lie on multiples of `step`.

    Without a step, values are rounded to four significant digits, so that recipes stay readable.
    Of genes with one `ratio` only the ratios matter: their genomes have the largest of them at 1.
    With `near`, optimizers move the gene as its distance from the gene of that name.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = None
    ratio: str = ""
    near: str = ""

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high)
        if self.log and self.low <= 0:
            raise SpaceError(f"gene '{self.name}': a log range needs low > 0, got {self.low}")

    def snap(self, value: Value) -> float:
        """The nearest value of the gene's grid inside [low, high]."""
        number = min(max(float(value), self.low), self.high)
        if self.step is not None:
            number = round(round(number / self.step) * self.step, 12)
        else:
            number = float(f"{number:.4g}")
        return float(min(max(number, self.low), self.high))  # also where the ends are whole

    def decode(self, unit: float) -> float:
        """From the unit interval to a value."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return self.snap(math.exp(low + unit * (high - low)))
        return self.snap(self.low + unit * (self.high - self.low))

    def encode(self, value: Value) -> float:
        """From a value to the unit interval; the inverse of `decode` on the gene's own values."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(float(value)) - low) / (high - low)
        return (float(value) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Whole:
    """A whole number in [low, high], both ends included."""

    name: str
    low: int
    high: int
    when: When | None = None

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high)

    def snap(self, value: Value) -> int:
        """The nearest whole number inside [low, high]."""
        return min(max(round(float(value)), self.low), self.high)

    def decode(self, unit: float) -> int:
        """From the unit interval to a value; every value gets an equal share."""
        return self.low + _share(unit, self.high - self.low + 1)

    def encode(self, value: Value) -> float:
        """From a value to the middle of its share of the unit interval."""
        return (int(value) - self.low + 0.5) / (self.high - self.low + 1)


@dataclass(frozen=True)
class Choice:
    """One of several options, without an order."""

    name: str
    options: tuple[Value, ...]
    when: When | None = None

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise SpaceError(f"gene '{self.name}': options must be distinct, got {self.options}")

    def snap(self, value: Value) -> Value:
        """The value itself, if it is an option."""
        if value not in self.options:
            raise SpaceError(f"gene '{self.name}': {value!r} is not one of {self.options}")
        return self.options[self.options.index(value)]

    def decode(self, unit: float) -> Value:
        """From the unit interval to an option; every option gets an equal share."""
        return self.options[_share(unit, len(self.options))]

    def encode(self, value: Value) -> float:
        """From an option to the middle of its share of the unit interval."""
        return (self.options.index(value) + 0.5) / len(self.options)


Gene = Real | Whole | Choice


def canonical(genes: Sequence[Gene], values: Mapping[str, Value]) -> dict[str, Value]:
    """The genome of `values`: active genes only, in gene order, snapped to grids, ratios scaled.

    Equal recipes thus have equal genomes. Conditions may only look at earlier genes.

    Raises:
        SpaceError: an active gene has no value.
    """
    genome: dict[str, Value] = {}
    for gene in genes:
        if gene.when is not None and genome.get(gene.when.gene) not in gene.when.values:
            continue
        if gene.name not in values:
            raise SpaceError(f"gene '{gene.name}' has no value")
        genome[gene.name] = gene.snap(values[gene.name])
    return scaled(genes, genome)


def scaled(genes: Sequence[Gene], genome: dict[str, Value]) -> dict[str, Value]:
    """The genome with the largest magnitude of all genes of a `ratio` at 1; all zeros stay."""
    tops: dict[str, float] = {}
    for gene in genes:
        if isinstance(gene, Real) and gene.ratio and gene.name in genome:
            tops[gene.ratio] = max(tops.get(gene.ratio, 0.0), abs(float(genome[gene.name])))
    if not set(tops.values()) - {0.0, 1.0}:
        return genome
    for gene in genes:
        if isinstance(gene, Real) and (top := tops.get(gene.ratio)) and gene.name in genome:
            genome[gene.name] = gene.snap(float(genome[gene.name]) / top)
    return genome


def _check_range(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SpaceError(
            f"gene '{name}': the range must have low < high, got [{low}, {high}]; "
            "to fix the value, put it under 'fixed' instead"
        )


def _share(unit: float, n: int) -> int:
    return min(max(int(unit * n), 0), n - 1)
