"""Warm starts: what earlier runs found best, as genomes of this search's space."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.front import layered
from evoaim.results import Results, losses
from evoaim.run_dir import RunDir, existing, read_json, write_json
from search_spaces.genes import Choice, Gene, Genome, Value, canonical
from search_spaces.space import REST, SearchSpace

BEST = 16  # candidates of every earlier run, its front first
_GROUP = re.compile(r"\.g(\d+)(?=\.|$)")


def earlier_genomes(experiment: Experiment, space: SearchSpace) -> list[Genome]:
    """The best candidates of the runs under `warm_start:`, front by front, with genes by name.

    Raises:
        ConfigError: no run there, or one that has no gene or no finished candidate to offer.
    """
    found: list[Genome] = []
    for path in experiment.warm_start:
        results = Results.read(existing(path))
        best = _best(results)
        if not best:
            raise ConfigError(f"warm_start: the run '{path}' has no finished candidate")
        genomes = [translated(genome, space) for genome in best]
        if all(g is None for g in genomes):
            theirs = ", ".join(list(best[0])[:4])
            raise ConfigError(
                f"warm_start: the run '{path}' has no gene of this search (it has {theirs}, ...); "
                "genes are found by their names, which carry the experts' short names"
            )
        found += [g for g in genomes if g is not None and g not in found]
    return found


def translated(theirs: Genome, space: SearchSpace) -> Genome | None:
    """A genome of another space in this one; None if they have no gene in common.

    Genes go by name. One that is finer here takes the value of the coarser one there
    (`weight.math.g0.attn` that of `weight.math.g0`, `weight.math.attn`, `weight.math` or
    `weight.math.rest`), one that is coarser the mean of the finer ones; groups of layers go by the
    part of the depth that they are. Values are clipped to the ranges here, and what is not known is
    as in the first seed.
    """
    given: dict[str, Value] = {}
    groups = _n_groups(g.name for g in space.genes), _n_groups(theirs)
    for gene in space.genes:
        value = next(_offers(gene, theirs, groups), None)
        if value is not None:
            given[gene.name] = value
    if not given:
        return None
    defaults: dict[str, Value] = {}
    for seed in reversed(space.seeds()):  # an inactive gene of one seed may be active in another
        defaults |= seed
    middle = {g.name: g.decode(0.5) for g in space.genes}
    return canonical(space.genes, {**middle, **defaults, **given})


def keep_genomes(run: RunDir, genomes: Sequence[Genome]) -> None:
    """Write them into the run, so that it can be resumed whatever became of the earlier ones."""
    if genomes and not _file(run).exists():
        write_json(_file(run), [dict(g) for g in genomes])


def kept_genomes(run: RunDir) -> list[Genome] | None:
    """What the run was started with; None if it is new, or began from scratch."""
    return read_json(_file(run)) if _file(run).exists() else None


def _file(run: RunDir) -> Path:
    return run.path / "warm_start.json"


def _best(results: Results) -> list[Genome]:
    """The front, by what it was promoted to, then the next layers; far ones of a layer first."""
    objectives = results.objectives
    front = [e for e in results.front if e.trial is not None]
    first = [front[i] for i in layered(losses(objectives, [e.known for e in front]), BEST)]
    taken = {e.trial for e in first}
    able = [t for t in results.trials if t.eligible and t.number not in taken]
    points = losses(objectives, [t.estimates for t in able])
    others = [able[i].genome for i in layered(points, BEST - len(first))]
    return [*(e.genes for e in first), *others]


def _offers(gene: Gene, theirs: Genome, groups: tuple[int, int]) -> Iterator[Value]:
    """Values for a gene, that of the most similar name first; groups of layers here and there."""
    for names in _alike(gene.name, theirs, groups):
        values = [theirs[n] for n in names if n in theirs]
        if isinstance(gene, Choice):
            yield from (v for v in values if v in gene.options)
        elif numbers := [v for v in values if not isinstance(v, str | bool)]:
            yield gene.snap(sum(numbers) / len(numbers))


def _alike(name: str, theirs: Genome, groups: tuple[int, int]) -> Iterator[list[str]]:
    """Names of theirs that may stand for one of ours; several: their mean."""
    found = _GROUP.search(name)
    if found is None:
        yield [name]
        yield [n for n in theirs if _GROUP.sub("", n) == name]
        yield [n for n in theirs if n.startswith(f"{name}.") and not n.endswith(f".{REST}")]
    else:
        stem, module, k = name[: found.start()], name[found.end() :], int(found[1])
        here, there = groups
        first = k * there // here
        same = [f"{stem}.g{n}" for n in range(first, max(first + 1, (k + 1) * there // here))]
        yield [f"{g}{module}" for g in same]
        yield same
        yield [f"{stem}{module}"]
    parts = name.split(".")
    stems = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    yield from ([n] for s in stems for n in (s, f"{s}.{REST}"))


def _n_groups(names: Iterable[str]) -> int:
    """How many groups of layers the names of genes tell."""
    return 1 + max((int(m[1]) for n in names for m in _GROUP.finditer(n)), default=0)
