"""What `evoaim validate` prints: all that can be known of a search without running it."""

from collections.abc import Iterator

import psutil
import torch

from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.evaluator import Evaluator
from evoaim.live import DTYPES
from fitness.objectives import contradictions
from search_spaces.genes import Choice, Gene


def describe(experiment: Experiment) -> Iterator[str]:
    """Check an experiment as `evoaim search` would before its first candidate; one line a fact.

    Raises:
        ConfigError, SpaceError, FitnessError: what `evoaim search` would refuse.
    """
    evaluator = Evaluator.of(experiment)
    engine = evaluator.engine
    models = {"base": engine.base, **engine.experts}
    yield f"experiment  {experiment.name}, seed {experiment.seed}"
    for name, model in models.items():
        yield f"model       {name}: {model.name}, {_size(model.n_bytes)} in {model.dtype}"
    yield from _memory(evaluator)
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
    yield from (f"warning     {text}" for text in contradictions(evaluator.objectives))
    n, budget = len(evaluator.panels["search"]), experiment.budget
    cost = f"{n} documents a candidate"
    if budget.candidates is not None:
        total = n * (budget.candidates + len(models))
        cost += f", {budget.candidates} candidates: {total} document evaluations, base and experts"
        cost += " included"
    if budget.minutes is not None:
        cost += f", at most {budget.minutes:g} minutes of evaluation"
    yield f"cost        {cost}"
    yield "valid"


def _memory(evaluator: Evaluator) -> Iterator[str]:
    """The memory plan.

    Raises:
        ConfigError: the plan does not fit.
    """
    engine = evaluator.engine
    stored = [m.n_bytes for m in (engine.base, *engine.experts.values())]
    parameters = sum(p.numel() for p in engine.live.parameters())
    live = parameters * DTYPES[evaluator.experiment.models.dtype].itemsize
    device = next(engine.live.parameters()).device
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        need, place = sum(stored) + live, "base and experts resident on the GPU"
        free += live  # the live model is there already
    else:
        free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
        free += live  # it is there already
        need, place = live, f"base and experts memory-mapped ({_size(sum(stored))})"
    yield f"memory      {device}: {_size(live)} live model, {place}"
    yield f"            {_size(free)} of {_size(total)} free; needs {_size(need)}"
    if need > free:
        raise ConfigError(
            f"models: {_size(need)} are needed on {device}, {_size(free)} are free; "
            "use a smaller dtype (models.dtype: bfloat16), fewer experts, or another device"
        )


def _gene(gene: Gene) -> str:
    text = f"{gene.name}: "
    if isinstance(gene, Choice):
        text += " | ".join(map(str, gene.options))
    else:
        text += f"[{gene.low:g}, {gene.high:g}]" + (", log" if getattr(gene, "log", False) else "")
    if gene.when is not None:
        text += f" while {gene.when.gene} is {' or '.join(map(str, gene.when.values))}"
    return text


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
