"""What the user wants maximized or minimized: from names of tasks and metrics to estimates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fitness.errors import FitnessError
from fitness.estimators.sample_mean import mean
from fitness.types import DocumentScores, Estimate, Goal, Metric, Objective, Scores


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective as the user writes it.

    Args:
        name: unique among the objectives.
        tasks: names of tasks, groups or tags; the objective is the mean over their leaf tasks.
        metric: lm-eval's name, e.g. `acc` or `exact_match,strict-match`; None: each task's first.
        goal: None: what lm-eval says is better; "watch": that, but it is not optimized.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str | None = None
    goal: Goal | Literal["watch"] | None = None


class Tasks(Protocol):
    """The part of a harness that knows tasks and metrics by name."""

    def leaves(self, name: str) -> tuple[str, ...]:
        """The tasks behind the name of a task, group or tag."""
        ...

    def metric(self, task: str, name: str | None = None) -> Metric:
        """A metric of a leaf task; None: its first."""
        ...


def resolve(spec: ObjectiveSpec, tasks: Tasks) -> Objective:
    """The objective with its metrics found.

    Raises:
        FitnessError: no task, a task twice, an unknown task or metric, or metrics that do not mean
            the same (one better when higher, another when lower, or an accuracy and a perplexity).
    """
    where = f"objective '{spec.name}'"
    if not spec.tasks:
        raise FitnessError(f"{where}: at least one task expected")
    names = [leaf for task in spec.tasks for leaf in tasks.leaves(task)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise FitnessError(f"{where}: task '{twice[0]}' counts twice; name it once")
    metrics = tuple(tasks.metric(name, spec.metric) for name in names)
    if len({(m.goal, m.link) for m in metrics}) > 1:
        listing = ", ".join(f"{m.key} ({m.goal})" for m in metrics)
        raise FitnessError(
            f"{where}: metrics of different kinds cannot be averaged: {listing}; "
            "name one metric they share, or make two objectives"
        )
    watched = spec.goal == "watch"
    goal = metrics[0].goal if spec.goal is None or spec.goal == "watch" else spec.goal
    return Objective(spec.name, goal, metrics, not watched)


def contradictions(objectives: Iterable[Objective]) -> tuple[str, ...]:
    """One sentence for every objective whose goal is against lm-eval's; legal, but worth saying."""
    return tuple(
        f"objective '{o.name}' is set to {o.goal} {o.metrics[0].name}, which lm-eval would "
        f"{o.metrics[0].goal}"
        for o in objectives
        if o.goal != o.metrics[0].goal
    )


def estimate_objectives(scores: Scores, objectives: Sequence[Objective]) -> dict[str, Estimate]:
    """Objective name -> mean over the scored documents, as a sample of a large population.

    Raises:
        FitnessError: the scores lack a metric, or fewer than two documents carry a value.
    """
    estimates: Mapping[str, Estimate] = {
        m.key: mean(_of(scores, m).total, _of(scores, m).weight, m)
        for o in objectives
        for m in o.metrics
    }
    return {o.name: o.combine(estimates) for o in objectives}


def _of(scores: Scores, metric: Metric) -> DocumentScores:
    try:
        return scores[metric.key]
    except KeyError:
        raise FitnessError(
            f"no scores for {metric.key}: the panel lacks the task, or the metric is not a number "
            f"per document; scored: {', '.join(sorted(scores)) or 'nothing'}"
        ) from None
