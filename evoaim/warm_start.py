"""Warm starts: what earlier runs found best, as genomes of this search's space."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.front import layered
from evoaim.results import Results, losses
from evoaim.run_dir import RunDir, existing, read_json, write_json
from search_spaces.genes import Choice, Gene, Genome, Value, canonical
from search_spaces.space import REST, SearchSpace

BEST = 16  # candidates of every earlier run, its front first


def earlier_genomes(experiment: Experiment, space: SearchSpace) -> list[Genome]:
    """The best candidates of the runs under `warm_start:`, front by front, with genes by name.

    Raises:
        ConfigError: no run there, or one that has no gene or no finished candidate to offer.
    """
    found: list[Genome] = []
    for path in experiment.warm_start:
        results = Results.read(existing(path))
        able = [t for t in results.trials if t.eligible]
        if not able:
            raise ConfigError(f"warm_start: the run '{path}' has no finished candidate")
        points = losses(results.objectives, [t.estimates for t in able])
        genomes = [translated(able[i].genome, space) for i in layered(points, BEST)]
        if all(g is None for g in genomes):
            theirs = ", ".join(list(able[0].genome)[:4])
            raise ConfigError(
                f"warm_start: the run '{path}' has no gene of this search (it has {theirs}, ...); "
                "genes are found by their names, which carry the experts' short names"
            )
        found += [g for g in genomes if g is not None and g not in found]
    return found


def translated(theirs: Genome, space: SearchSpace) -> Genome | None:
    """A genome of another space in this one; None if they have no gene in common.

    Genes go by name. One that is finer here takes the value of the coarser one there
    (`weight.math.g0.attn` that of `weight.math.g0`, `weight.math` or `weight.math.rest`); values
    are clipped to the ranges here, and what is not known is as in the first seed.
    """
    given: dict[str, Value] = {}
    for gene in space.genes:
        value = next(_offers(gene, theirs), None)
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


def _offers(gene: Gene, theirs: Genome) -> Iterator[Value]:
    """Values for a gene, the one of the most similar name first."""
    parts = gene.name.split(".")
    stems = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    for name in [gene.name, *(n for s in stems for n in (s, f"{s}.{REST}"))]:
        value = theirs.get(name)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(gene, Choice):
            if value in gene.options:
                yield value
        elif numeric:
            yield gene.snap(value)  # type: ignore[arg-type]
