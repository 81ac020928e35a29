"""A run directory with planted scores, written through the product's own files and ledger."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from evoaim.ledger import Ledger, Trial, sqlite_url
from evoaim.methods import facts
from evoaim.results import Entry, front_of
from evoaim.run_dir import RunDir, write_json, write_scores, write_text
from fitness.types import DocumentScores, Estimate, Goal, Objective
from search_spaces import strict_yaml
from search_spaces.anatomy import Anatomy
from search_spaces.build import Layout, build_space, read_preset
from search_spaces.genes import canonical
from search_spaces.space import Models, SearchSpace

PARENTS = {"base": "zoo/base", "math": "zoo/math", "italian": "zoo/italian", "japanese": "zoo/jp"}


@dataclass(frozen=True)
class Plan:
    """What a planted run looks like."""

    goals: tuple[Goal, ...] = ("maximize", "maximize")
    names: tuple[str, ...] = ("math", "italian", "japanese", "code", "chat", "law", "wit")
    trials: int = 40
    failed: tuple[int, ...] = (7, 23)
    raced: tuple[int, ...] = ()
    infeasible: tuple[int, ...] = ()  # each misses a constraint by its number in hundredths
    watched: tuple[str, ...] = ()  # names of objectives that are measured only
    promoted: bool = False  # the front was also scored on all search documents
    level: float | None = None  # of what candidates are compared by, above their values
    rescored: bool = True
    gain: float = 0.25  # how far the best merges are above the parents
    preset: str = "ties_aim"
    layer_groups: int = 2
    module_types: tuple[str, ...] = ("attn", "mlp")
    parents: tuple[str, ...] = tuple(PARENTS)
    seed: int = 0
    storage: Literal["sqlite", "journal"] = "journal"  # which is quicker

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(n, g, ()) for n, g in zip(self.names, self.goals, strict=False))


def make_run(path: Path, plan: Plan) -> RunDir:
    """Write the run directory of a plan."""
    rng = np.random.default_rng(plan.seed)
    run, space, objectives = RunDir(path), _space(plan), plan.objectives
    url = sqlite_url(run.study) if plan.storage == "sqlite" else f"journal:///{path}/study.log"
    run.open(_experiment(plan) | {"storage": url})
    k = len(objectives)
    parents = []
    for i, name in enumerate(plan.parents):
        truth = np.array([0.62 if i == j + 1 else 0.38 for j in range(k)])
        report = _estimates(plan, truth, 0.012, rng) if plan.rescored else None
        search = _compared(plan, _estimates(plan, truth, 0.03, rng))
        parents.append(Entry(name, None, {}, {"merge_method": "linear"}, search, report))
        for split, n in (("search", 60), ("report", 300 * plan.rescored)):
            hashes = tuple(f"{split}{j}" for j in range(n))
            scores = DocumentScores(hashes, np.zeros(n), np.ones(n))
            write_scores(
                run.responses(name, split), {f"zoo_{o.name}/acc": scores for o in objectives}
            )
    write_json(run.parents, [p.to_dict() for p in parents])
    ledger = Ledger.open(url, "quickstart", objectives, space.genes)
    truths = {}
    for number in range(plan.trials):
        genome = canonical(space.genes, {g.name: g.decode(rng.random()) for g in space.genes})
        ledger.start(number, genome)
        if number in plan.failed:
            ledger.fail(number, "non-finite weights in model.layers.0", 0.2)
            continue
        share = rng.dirichlet(np.ones(k))
        skill = rng.beta(1 + 3 * number / plan.trials, 1.5)
        truths[number] = 0.3 + (0.3 + plan.gain) * skill * np.sqrt(share)
        estimates = _compared(plan, _estimates(plan, truths[number], 0.03, rng))
        recipe = space.decode(genome)
        write_text(run.recipe(number), recipe.to_yaml())
        violation = number / 100 if number in plan.infeasible else 0.0
        raced = number in plan.raced
        ledger.finish(Trial(number, genome, "done", estimates, 1.7, "", raced, violation))
    if plan.rescored:
        front = [
            Entry(
                f"trial {t.number}",
                t.number,
                t.genome,
                strict_yaml.read(run.recipe(t.number)),
                t.estimates,
                _estimates(plan, truths[t.number], 0.012, rng),
                _estimates(plan, truths[t.number], 0.0, rng) if plan.promoted else None,
            )
            for t in front_of(objectives, ledger.trials())
        ]
        write_json(run.front, [e.to_dict() for e in front])
        if plan.promoted:
            finalists = [e.to_dict() for e in front]
            write_json(run.promoted, {"trials": plan.trials, "promoted": finalists})
    return run


def ledger_of(run: RunDir) -> Ledger:
    """The study of a planted run."""
    return Ledger.read(strict_yaml.read(run.experiment)["storage"], "quickstart")


def _space(plan: Plan) -> SearchSpace:
    tensors = [
        f"model.layers.{i}.{m}.weight"
        for i in range(4)
        for m in ("self_attn.q_proj", "mlp.up_proj")
    ]
    experts = {n: PARENTS[n] for n in list(PARENTS)[1:]}
    models = Models("zoo/base", experts)
    return build_space(
        read_preset(plan.preset),
        Layout(plan.layer_groups, plan.module_types),
        facts,
        models,
        Anatomy.of(tensors, 4),
    )


def _experiment(plan: Plan) -> dict[str, object]:
    return {
        "name": "quickstart",
        "models": {"base": "zoo/base", "experts": {n: PARENTS[n] for n in list(PARENTS)[1:]}},
        "search_space": {"preset": plan.preset},
        "objectives": [{"name": o.name, "goal": o.goal} for o in plan.objectives],
        "budget": {"candidates": plan.trials},
        "keep": ["math >= 0.9 * base"] if plan.infeasible else [],
    }


def _estimates(
    plan: Plan, truth: np.ndarray, error: float, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Noisy estimates of accuracies; a minimized objective is a perplexity."""
    noisy = truth + error * rng.standard_normal(len(truth))
    pairs = zip(plan.objectives, noisy, strict=True)
    watched = {n: Estimate(float(rng.random()), error) for n in plan.watched}
    return watched | {
        o.name: Estimate(float(np.clip(v, 0, 1)), error)
        if o.goal == "maximize"
        else Estimate(float(np.exp(4 * (1 - v))), float(np.exp(4 * (1 - v)) * error))
        for o, v in pairs
    }


def _compared(plan: Plan, estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """Search estimates from twenty documents, with what candidates are compared by."""
    if plan.level is None:
        return {n: replace(e, documents=20) for n, e in estimates.items()}
    return {
        n: replace(e, documents=20, rank_value=e.value + plan.level) for n, e in estimates.items()
    }
