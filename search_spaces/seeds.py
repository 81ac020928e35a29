"""Known recipes that a search starts from: experts, their mean, published settings, weightings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from search_spaces.genes import Genome, Value, canonical
from search_spaces.parameters import AIM_PARAMETERS

if TYPE_CHECKING:
    from search_spaces.space import MethodFacts, SearchSpace

SCALES = (0.3, 0.5, 0.7, 1.0)  # task arithmetic's: of the sum of the experts' deltas

Values = dict[str, Value]


def seeds_of(space: "SearchSpace", weights: Sequence[Mapping[str, float]] = ()) -> list[Genome]:
    """The seeds of a space, the most valuable first, without duplicates.

    With AIM off every expert, the experts' mean and every method's published setting; mean and
    published settings with AIM at its published strength, where it is searched; with AIM off what
    is weighted as given, and sums of the deltas at the scales that are usual for task arithmetic.
    That is 2 n_methods + 2 + n_experts and up to six more: twice as many, with AIM at its published
    strength for all, left the demo zoo's searches of 64 and of 128 candidates behind.

    Args:
        space: of the recipes.
        weights: expert -> weight, of sums to 1; taken where every expert has a weight of its own.
    """
    first = space.methods[0]
    alone = [_alone(space, first, e) for e in space.models.experts]
    merges = [_mean(space, first), *(_published(space, m) for m in space.methods)]
    further = [*_weighted(space, first, weights), *_scaled(space, first)]
    starts = [start | _aim(space, "identity") for start in (*alone, *merges)]
    starts += [start | _aim(space, "published") for start in merges]
    starts += [start | _aim(space, "identity") for start in further]
    genomes: list[Genome] = []
    for start in starts:
        genome = canonical(space.genes, start)
        if genome not in genomes:
            genomes.append(genome)
    return genomes


def _aim(space: "SearchSpace", kind: str) -> Values:
    return {
        name: getattr(AIM_PARAMETERS[s.name], kind)
        for s in space.searched
        if s.name in AIM_PARAMETERS
        for name in space.names(s)
    }


def _alone(space: "SearchSpace", method: "MethodFacts", expert: str) -> Values:
    """Values for all genes that give this expert back (up to rounding), AIM aside."""
    pair = next(p for p, ends in space.pairs.items() if expert in ends)
    values = _values(space, method, "identity", pair)
    for s in space.searched:
        for name in space.names(s):
            if s.name == "weight" and "expert" in s.per:
                values[name] = float(name.split(".")[1] == expert)
            if s.name == "t":
                values[name] = float(space.pairs[pair][1] == expert)
    return values


def _mean(space: "SearchSpace", method: "MethodFacts") -> Values:
    """Values for all genes that weigh all experts equally."""
    even = 1 / len(space.models.experts)
    return _plain_sum(space, method, dict.fromkeys(space.models.experts, even))


def _published(space: "SearchSpace", method: "MethodFacts") -> Values:
    """Values for all genes as the method's paper recommends them."""
    return _values(space, method, "published", next(iter(space.pairs)))


def _weighted(
    space: "SearchSpace", method: "MethodFacts", weights: Sequence[Mapping[str, float]]
) -> Iterator[Values]:
    """Every weighting, if experts have weights of their own."""
    if any(s.name == "weight" and "expert" in s.per for s in space.searched):
        for each in weights:
            yield _plain_sum(space, method, each)


def _scaled(space: "SearchSpace", method: "MethodFacts") -> Iterator[Values]:
    """The sums of all deltas at usual scales, by lambda if weights are relative, else by weights.

    Where lambda is not searched, a space with relative weights has only the mean.
    """
    n = len(space.models.experts)
    weight = next((s for s in space.searched if s.name == "weight"), None)
    relative = space.is_relative(method, "weight")
    for scale in SCALES if n > 1 else ():
        if relative:
            for s in space.searched:
                if s.name == "lambda" and s.low <= scale * n <= s.high:
                    yield _mean(space, method) | dict.fromkeys(space.names(s), scale * n)
        elif weight is not None and method.name in (weight.methods or (method.name,)):
            yield _plain_sum(space, method, dict.fromkeys(space.models.experts, scale))


def _plain_sum(space: "SearchSpace", method: "MethodFacts", weights: Mapping[str, float]) -> Values:
    """Values for all genes that sum the experts' deltas with these weights, nothing left out."""
    values = _values(space, method, "identity", next(iter(space.pairs)))
    for s in space.searched:
        if s.name == "weight":
            for name in space.names(s):
                expert = name.split(".")[1] if "expert" in s.per else next(iter(weights))
                values[name] = weights[expert]
    return values


def _values(space: "SearchSpace", method: "MethodFacts", kind: str, pair: str) -> Values:
    """One value per gene: the declaration's `kind`, else its default, else mid-range."""
    values: Values = {"method": method.name, "pair": pair}
    for s in space.searched:
        p = (AIM_PARAMETERS | dict(method.parameters)).get(s.name)
        known = [getattr(p, kind), p.default] if p else []
        middle: Value = s.options[0] if s.options else (s.low + s.high) / 2
        fitting = (v for v in known if v is not None and (not s.options or v in s.options))
        values |= dict.fromkeys(space.names(s), next(fitting, middle))
    return values
