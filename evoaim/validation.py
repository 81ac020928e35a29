"""What `evoaim validate` prints: all that can be known of a search without running it."""

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from evoaim.blueprint import Blueprint
from evoaim.config import Experiment
from evoaim.coverage import coverage
from evoaim.evaluator import Evaluator
from evoaim.live import DTYPES
from evoaim.merger import Merger
from evoaim.placement import size_text
from fitness.objectives import contradictions
from search_spaces.genes import Choice, Gene


def describe(experiment: Experiment) -> Iterator[str]:
    """Check an experiment as `evoaim search` would before its first candidate; one line a fact.

    Raises:
        ConfigError, SpaceError, FitnessError: what `evoaim search` would refuse.
    """
    yield f"experiment  {experiment.name}, seed {experiment.seed}"
    models = experiment.models
    merger = Merger.open(
        models.base, models.experts, models.device, models.placement, DTYPES[models.dtype]
    )
    for key, model in merger.models.items():
        size = size_text(model.n_bytes)
        yield f"model       {key or 'base'}: {model.name}, {size} in {model.dtype}"
    for line, head in zip_longest(merger.placement.lines(), ["memory"], fillvalue=""):
        yield f"{head:<12}{line}"
    evaluator = Evaluator.of(experiment)
    genes = evaluator.space.genes
    yield f"genes       {len(genes)}; {len(evaluator.space.seeds())} seed recipes go first"
    yield from (f"            {_gene(g)}" for g in genes)
    for objective in evaluator.objectives:
        keys = ", ".join(m.key for m in objective.metrics)
        yield f"objective   {objective.name}: {objective.goal} {keys}"
    for split, panel in evaluator.panels.items():
        sizes = ", ".join(f"{t} {len(ids)}" for t, ids in panel.documents.items())
        yield f"documents   {split}: {sizes}"
    tokens = sum(b.numel() for b in evaluator.blocks)
    yield f"calibration {tokens} tokens" if tokens else "calibration none: AIM is not available"
    yield from _coverage(merger.blueprint) if tokens else ()
    yield from (f"warning     {text}" for text in contradictions(evaluator.objectives))
    n, budget = len(evaluator.panels["search"]), experiment.budget
    cost = f"{n} documents a candidate"
    if budget.candidates is not None:
        total = n * (budget.candidates + len(merger.models))
        cost += f", {budget.candidates} candidates: {total} document evaluations, base and experts"
        cost += " included"
    if budget.minutes is not None:
        cost += f", at most {budget.minutes:g} minutes of evaluation"
    yield f"cost        {cost}"
    yield "valid"


def _coverage(blueprint: Blueprint) -> Iterator[str]:
    """What AIM can relax, and why it leaves the rest alone."""
    found = coverage(blueprint)
    without = Counter(c.why for c in found if not c.covered)
    yield f"aim         relaxes {len(found) - without.total()} of {len(found)} tensors"
    yield from (f"            not {n}: {why}" for why, n in without.items())


def _gene(gene: Gene) -> str:
    text = f"{gene.name}: "
    if isinstance(gene, Choice):
        text += " | ".join(map(str, gene.options))
    else:
        text += f"[{gene.low:g}, {gene.high:g}]" + (", log" if getattr(gene, "log", False) else "")
    if gene.when is not None:
        text += f" while {gene.when.gene} is {' or '.join(map(str, gene.when.values))}"
    return text
