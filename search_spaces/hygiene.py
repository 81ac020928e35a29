"""Genes that change nothing, or nothing that others do not: what a space searches in vain."""

from collections.abc import Iterator
from itertools import islice
from math import ceil, floor

from search_spaces.genes import Choice, Gene, Real
from search_spaces.parameters import AIM_PARAMETERS, ALWAYS
from search_spaces.space import MethodFacts, Searched, SearchSpace

SUMS = (("epsilon", "spread"),)  # two half-widths of which only the sum matters


def null_directions(space: SearchSpace) -> list[str]:
    """What of a space leaves every merge as it is, one sentence each.

    Which these are follows from the methods' declarations: `Parameter.relative` says where a
    common scale cancels out; where it does not, a method's lambda scales the weighted sum.
    What hardly matters (omega at a high gamma, say) is no null direction.
    """
    found: dict[str, None] = {}
    for method in space.methods:
        active = {s.name: s for s in space.searched if s.name in method.parameters}
        for text in _of_method(space, method, active):
            found[text] = None
    searched = {s.name for s in space.searched}
    strength = [n for n in AIM_PARAMETERS if n != "omega" and n in searched]
    if strength and "omega" not in searched and space.fixed.get("omega", 1.0) == 1.0:
        found[f"{strength[0]} has no effect without omega, which is 1 unless it is given"] = None
    return list(found)


def _of_method(
    space: SearchSpace, method: MethodFacts, active: dict[str, Searched]
) -> Iterator[str]:
    several = len(space.models.experts) > 1
    for name, s in active.items():
        if not space.is_relative(method, name):
            continue
        cause = method.parameters[name].relative
        why = "" if cause == ALWAYS else f" while {cause} is true"
        if not several:
            yield f"{name} of a single expert has no effect with {method.name}{why}"
        elif "expert" not in s.per:
            yield f"{name} common to all experts has no effect with {method.name}{why}"
        elif not all(getattr(g, "ratio", "") for g in space.genes if g.name in space.names(s)):
            yield (
                f"a common scale of all experts' {name} has no effect with {method.name}{why}; "
                "a linear range from 0 to at least 1 is searched by ratios alone"
            )
    if {"weight", "lambda"} <= set(active) and not space.is_relative(method, "weight"):
        yield f"only the product of lambda and weight counts with {method.name}; fix one of them"
    for a, b in SUMS:
        if {a, b} <= set(active):
            yield f"only a sum of {a} and {b} counts with {method.name}; fix one of them"
    if "rescale_by" in active and not _on(space, method, "rescale"):
        yield f"rescale_by has no effect with {method.name} while rescale is false"


def _on(space: SearchSpace, method: MethodFacts, switch: str) -> bool:
    """Whether a switch is on, or may be."""
    if any(s.name == switch for s in space.searched):
        return True
    declared = method.parameters.get(switch)
    return bool(space.fixed.get(switch, declared.default if declared else True))


def count_genomes(genes: tuple[Gene, ...], most: int) -> int | None:
    """How many distinct genomes a space has; None if more than `most`.

    Inactive genes do not count. Numbers off a grid count as more than any `most`.
    """
    controls = {g.when.gene for g in genes if g.when is not None}
    return _count(genes, controls, {}, most)


def _count(
    genes: tuple[Gene, ...], controls: set[str], chosen: dict[str, object], most: int
) -> int | None:
    """Of the genes from here on, given the values of those that others depend on."""
    total = 1
    for i, gene in enumerate(genes):
        if gene.when is not None and chosen.get(gene.when.gene) not in gene.when.values:
            continue
        size = _size(gene)
        if size is None or total > most:
            return None
        if gene.name not in controls:
            total *= size
            continue
        parts: list[int] = []
        for value in islice(_values(gene), most + 1):
            part = _count(genes[i + 1 :], controls, {**chosen, gene.name: value}, most)
            if part is None:
                return None
            parts.append(part)
        total *= sum(parts)
        return None if total > most else total
    return None if total > most else total


def _values(gene: Gene) -> Iterator[object]:
    if isinstance(gene, Choice):
        yield from gene.options
    elif isinstance(gene, Real):
        raise TypeError(f"gene '{gene.name}' is a number, which no condition can look at")
    else:
        yield from range(gene.low, gene.high + 1)


def _size(gene: Gene) -> int | None:
    """Values of a gene; None if it has no grid."""
    if isinstance(gene, Choice):
        return len(gene.options)
    if isinstance(gene, Real):
        if gene.step is None or gene.ratio:
            return None
        inner = floor(gene.high / gene.step + 1e-6) - ceil(gene.low / gene.step - 1e-6) + 1
        ends = sum(
            gene.snap(e) != round(round(e / gene.step) * gene.step, 12)
            for e in (gene.low, gene.high)
        )
        return inner + ends
    return gene.high - gene.low + 1
