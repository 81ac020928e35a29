"""Weights of experts that models and scores suggest: a search starts from them, too."""

import math
from collections.abc import Mapping

from evoaim.evaluator import Evaluator
from evoaim.parents import Parents
from evoaim.results import Estimates
from evoaim.run_dir import RunDir, read_json, write_json
from fitness.types import Objective
from search_spaces.space import SearchSpace

TEMPERATURE = 0.5  # of scores from 0 (worst) to 1 (best): the best weighs 7 times the worst

Weights = dict[str, float]


def seed_weights(run: RunDir, evaluator: Evaluator, parents: Parents) -> list[Weights]:
    """`measured_weights` as the run has them: measured once, when it begins."""
    kept = run.path / "seed_weights.json"
    if not kept.exists():
        write_json(kept, measured_weights(evaluator, parents))
    found: list[Weights] = read_json(kept)
    return found


def measured_weights(evaluator: Evaluator, parents: Parents) -> list[Weights]:
    """MetaGPT's and LM-Cocktail's weights, each of sum 1, where the space gives experts weights.

    The norms take one pass over all experts.
    """
    if not weighs(evaluator.space):
        return []
    objectives = [o for o in evaluator.objectives if o.optimized]
    experts = {e: parents.estimates[e] for e in evaluator.space.models.experts}
    return [by_size(deltas(evaluator)), by_scores(objectives, experts)]


def deltas(evaluator: Evaluator) -> Weights:
    """Squared norm of every expert's whole delta, by name."""
    merger = evaluator.engine.merger
    planner = merger.planner(evaluator.parents()["base"])
    flow = planner.data.flow(next(iter(merger.blueprint.places)))
    whole = merger.statistics(flow).whole
    return {e: whole.delta_dot(e, e) for e in evaluator.space.models.experts}


def by_size(squares: Mapping[str, float]) -> Weights:
    """w_i = |d_i|^2 / sum_j |d_j|^2 (MetaGPT, arXiv:2406.11385); equal ones if nothing moved."""
    total = sum(squares.values())
    return {e: s / total if total > 0 else 1 / len(squares) for e, s in squares.items()}


def by_scores(objectives: list[Objective], estimates: Mapping[str, Estimates]) -> Weights:
    """A softmax over the experts' scores (LM-Cocktail, arXiv:2311.13534, has losses on the task).

    Scores of an objective are first brought to [0, 1] over the experts; then their mean counts.
    """
    total = dict.fromkeys(estimates, 0.0)
    for o in objectives:
        losses = {e: o.loss(each[o.name].ranked) for e, each in estimates.items()}
        worst, best = max(losses.values()), min(losses.values())
        for e, loss in losses.items():
            total[e] += (worst - loss) / (worst - best) if worst > best else 0.0
    parts = {e: math.exp(t / len(objectives) / TEMPERATURE) for e, t in total.items()}
    return {e: p / sum(parts.values()) for e, p in parts.items()}


def weighs(space: SearchSpace) -> bool:
    """Whether a space gives every expert a weight of its own."""
    several = len(space.models.experts) > 1
    return several and any(s.name == "weight" and "expert" in s.per for s in space.searched)
