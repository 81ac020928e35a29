"""lm-eval's metrics as totals and weights that add up over documents."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api import metrics as lm_eval_metrics
from lm_eval.api.task import ConfigurableTask

from fitness._soft import soft_measures
from fitness.errors import FitnessError, unknown
from fitness.types import Goal, Link, Metric

Pair = tuple[float, float]  # (total, weight)


@dataclass(frozen=True)
class Measure:
    """A metric, and where and how its value of a document is read."""

    metric: Metric
    name: str  # in the dict of `process_results`
    filter: str
    read: Callable[[Any], Pair | None]  # None: the task's value is not of the expected form


def measures(task: ConfigurableTask) -> tuple[Measure, ...]:
    """The metrics of a task that add up over documents, in the task's order."""
    filters = [f.name for f in task._filters]
    found = []
    for name, aggregation in task.aggregation().items():
        if aggregation not in _LINKS:
            continue
        link, read = _LINKS[aggregation]
        goal: Goal = "maximize" if task.higher_is_better().get(name, True) else "minimize"
        for filtered in filters:
            full = f"{name},{filtered}" if len(filters) > 1 else name
            metric = Metric(task.task_name, full, goal, link)
            found.append(Measure(metric, name, filtered, read))
    return tuple(found)


def every_metric(task: ConfigurableTask) -> tuple[Metric, ...]:
    """The task's metrics that add up over documents, then our own measures."""
    own = tuple(m.metric(task.task_name) for m in soft_measures(task))
    return (*(m.metric for m in measures(task)), *own)


def find(task: ConfigurableTask, name: str | None) -> Metric:
    """The metric of that name; None: the first. Without `,FILTER`, that of the first filter.

    Raises:
        FitnessError: no such metric, or it is no sum over documents.
    """
    known = measures(task)
    for m in known:
        if name in {None, m.name, f"{m.name},{m.filter}"}:
            return m.metric
    for metric in every_metric(task):
        if name == metric.name:
            return metric
    others = sorted(set(task.aggregation()) - {m.name for m in known})
    names = [m.name for m in every_metric(task)]
    where = f"task '{task.task_name}'"
    if name is None or name.split(",")[0] in others:
        raise FitnessError(
            f"{where}: metric '{name or ', '.join(others)}' is computed over all documents at once "
            "and cannot be estimated from some of them; metrics that can: "
            f"{', '.join(names) or 'none'}"
        )
    raise FitnessError(f"{where}: {unknown('metric', name, names)}")


def _number(value: Any) -> Pair | None:
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return float(value), 1.0
    return None


def _number_or_absent(value: Any) -> Pair | None:
    pair = _number(value)
    return (0.0, 0.0) if pair is not None and math.isnan(pair[0]) else pair


def _weighted(value: Any) -> Pair | None:
    if isinstance(value, tuple) and len(value) == 2:
        return float(value[0]), float(value[1])
    return None


def _brier(value: Any) -> Pair | None:
    gold, probabilities = value  # sum over classes of (p - [gold])^2
    wanted = np.zeros(len(probabilities))
    wanted[gold] = 1.0
    return float(np.square(probabilities - wanted).sum()), 1.0


_LINKS: dict[Callable[..., Any], tuple[Link, Callable[[Any], Pair | None]]] = {
    lm_eval_metrics.mean: ("mean", _number),
    np.mean: ("mean", _number),
    lm_eval_metrics.nanmean: ("mean", _number_or_absent),
    lm_eval_metrics.brier_score: ("mean", _brier),
    lm_eval_metrics.perplexity: ("exp_neg_mean", _number),
    lm_eval_metrics.weighted_perplexity: ("exp_neg_mean", _weighted),
    lm_eval_metrics.bits_per_byte: ("bits", _weighted),
}
