"""What `evoaim validate` prints: all that can be known of a search without running it."""

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from evoaim.blueprint import Blueprint
from evoaim.config import Experiment
from evoaim.coverage import coverage
from evoaim.errors import under
from evoaim.evaluator import Evaluator
from evoaim.live import DTYPES
from evoaim.merger import Merger
from evoaim.placement import size_text
from evoaim.reuse import earlier_responses
from evoaim.scoring import is_whole
from evoaim.seed_weights import weighs
from evoaim.storage import check_storage
from evoaim.storage_url import redacted
from evoaim.warm_start import earlier_genomes
from fitness.objectives import contradictions
from search_spaces.genes import Choice, Gene
from search_spaces.hygiene import count_genomes, null_directions


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
    evaluator.engine.live  # noqa: B018 (whether it can be loaded)
    genes = evaluator.space.genes
    seeds = f"{len(evaluator.space.seeds())} seed recipes go first"
    more = ", and those that sizes and scores of the experts suggest"
    yield f"genes       {len(genes)}; {seeds}{more if weighs(evaluator.space) else ''}"
    yield from (f"            {_gene(g)}" for g in genes)
    yield from _optimizer(experiment, evaluator)
    if experiment.storage is not None:
        check_storage(experiment.storage)
        yield f"storage     {redacted(experiment.storage)}"
    for objective in evaluator.objectives:
        keys = ", ".join(m.key for m in objective.metrics)
        goal = objective.goal if objective.optimized else "watch"
        yield f"objective   {objective.name}: {goal} {keys}"
    yield from (f"keep        {c.text}" for c in experiment.constraints())
    for split, panel in evaluator.documents.items():
        have = evaluator.scorer.sizes(split)
        sizes = ", ".join(
            f"{t} {len(ids)}" + (f" of {have[t]}" if len(ids) < have[t] else "")
            for t, ids in panel.documents.items()
        )
        yield f"documents   {split}: {sizes}"
    tokens = sum(b.numel() for b in evaluator.blocks)
    yield f"calibration {tokens} tokens" if tokens else "calibration none: AIM is not available"
    yield from _coverage(merger.blueprint) if tokens else ()
    yield from (f"warning     {text}" for text in contradictions(evaluator.objectives))
    yield from (f"warning     null direction: {t}" for t in null_directions(evaluator.space))
    yield from _exhausted(experiment, genes)
    yield from _unreached(experiment)
    yield from _cost(experiment, evaluator)
    yield "valid"


def _optimizer(experiment: Experiment, evaluator: Evaluator) -> Iterator[str]:
    """Who proposes candidates, and what earlier runs hand over to it."""
    *before, last = experiment.stages()
    plan = [*(f"{s.kind} for {s.candidates} candidates" for s in before), last.kind]
    yield f"optimizer   {', then '.join(plan)}"
    if experiment.warm_start:
        with under("warm_start"):
            n = len(earlier_genomes(experiment, evaluator.space))
        yield f"warm start  {n} genomes of earlier runs follow the seed recipes"


def _unreached(experiment: Experiment) -> Iterator[str]:
    """Stages of the optimizer that the budget leaves nothing to."""
    budget, taken = experiment.budget.candidates, 0
    for i, stage in enumerate(experiment.stages()):
        if budget is not None and taken >= budget:
            yield (
                f"warning     optimizer.{i} ({stage.kind}) never begins: the stages before it take "
                f"{taken} candidates, budget.candidates is {budget}"
            )
        taken += stage.candidates or 0


def _cost(experiment: Experiment, evaluator: Evaluator) -> Iterator[str]:
    """How many documents will be run, at most."""
    reused = earlier_responses(experiment, evaluator)
    evaluator.check(len(reused.others))
    plan, budget = evaluator.plan(), experiment.budget
    everything = len(evaluator.documents["search"])
    asked = plan.estimator[1].documents
    n = sum(
        len(p) if asked is None or is_whole(experiment, t) else asked
        for t, p in evaluator.documents["search"].documents.items()
    )
    names = [module.__name__.rpartition(".")[2] for module, _ in (plan.selector, plan.estimator)]
    yield f"panel       {names[0]}; estimates by {names[1]}"
    rule = experiment.fitness.rule()
    if rule is not None:
        looks = ", ".join(f"{look:g}" for look in rule.looks)
        yield f"racing      {rule.kind}, alpha {rule.alpha:g}, after {looks} of the panel"
    racing = ", fewer if it is dropped early" if rule is not None else ""
    each = everything if plan.needs_references else n
    if reused.others or reused.parents:
        yield (
            f"responses   {len(reused.others)} models of earlier runs, and "
            f"{', '.join(reused.parents) or 'none'} of base and experts"
        )
    yield f"cost        {each} documents for base and each expert"
    yield f"            {n} documents a candidate{racing}"
    n_parents = len(evaluator.parents())
    lines = [("base and experts", each * (n_parents - len(reused.parents)))]
    finalists = 0
    if budget.candidates is not None:
        lines.append((f"{budget.candidates} candidates", n * budget.candidates))
        promotion = experiment.fitness.promoted()
        if promotion is not None:
            finalists = min(promotion.finalists, budget.candidates)
            lines.append((f"{finalists} finalists", (everything - n) * finalists))
        lines.append(("search documents", sum(count for _, count in lines)))
    if budget.minutes is not None:
        yield f"            at most {budget.minutes:g} minutes of evaluating candidates"
    report = len(evaluator.documents["report"])
    yield from (
        f"            {what}: at most {count:,} document evaluations" for what, count in lines
    )
    yield f"            then {report} report documents for every front member, base and expert"


def _exhausted(experiment: Experiment, genes: tuple[Gene, ...]) -> Iterator[str]:
    """Whether the space is smaller than the budget."""
    budget = experiment.budget.candidates
    n = count_genomes(genes, budget - 1) if budget is not None else None
    if n is not None:
        yield f"warning     the space has {n} distinct genomes, budget.candidates {budget}"


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
