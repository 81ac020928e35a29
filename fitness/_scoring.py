"""From the answers to a task's documents to totals and weights of all its metrics."""

import copy
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from numpy.typing import NDArray

from fitness._bank import Prepared
from fitness._metrics import Measure, measures
from fitness._soft import Count, soft_measures
from fitness._tasks import TASK_ERRORS, cause
from fitness.errors import ScoringError
from fitness.types import DocumentScores, Metric

Table = NDArray[np.float64]  # (n_documents, 2)


def tabulate(
    task: ConfigurableTask, documents: list[Prepared], hashes: tuple[str, ...], count: Count
) -> dict[str, DocumentScores]:
    """Scores of one task's answered documents, by `Metric.key`.

    Args:
        task: the task.
        documents: with responses.
        hashes: (n_documents,) of `documents`.
        count: tokens of a text.

    Raises:
        ScoringError: the task cannot judge an answer, or a value is not finite.
    """
    instances = [i for d in documents for i in d.instances]
    results: dict[str, list[dict[str, Any]]] = {}
    for ensemble in task._filters if instances else ():
        ensemble.apply(instances)
        results[ensemble.name] = [_results(task, d, ensemble.name) for d in documents]
    scores = {}
    for measure in measures(task):
        table = _table(measure, results.get(measure.filter, []))
        if table is not None:
            scores[measure.metric.key] = DocumentScores(hashes, table[:, 0], table[:, 1])
    for soft in soft_measures(task):
        metric = soft.metric(task.task_name)
        values = [soft.value(task, d, count) for d in documents]
        table = _finite(metric, [(0.0, 0.0) if v is None else (v, 1.0) for v in values])
        scores[metric.key] = DocumentScores(hashes, table[:, 0], table[:, 1])
    return scores


def _results(task: ConfigurableTask, document: Prepared, filtered: str) -> dict[str, Any]:
    answers = [i.filtered_resps[filtered] for i in document.instances]
    try:
        results: dict[str, Any] = task.process_results(copy.copy(document.document), answers)
    except TASK_ERRORS as error:
        raise ScoringError(
            f"task '{task.task_name}' cannot judge the answer {answers}: {cause(error)}"
        ) from error
    return results


def _table(measure: Measure, results: list[dict[str, Any]]) -> Table | None:
    """(n_documents, 2) totals and weights; None if a value is not one number a document."""
    pairs = [measure.read(r[measure.name]) if measure.name in r else (0.0, 0.0) for r in results]
    numbers = [pair for pair in pairs if pair is not None]
    return _finite(measure.metric, numbers) if len(numbers) == len(pairs) else None


def _finite(metric: Metric, pairs: list[tuple[float, float]]) -> Table:
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(table).all():
        raise ScoringError(f"metric {metric.key} is not finite on some documents")
    return table
