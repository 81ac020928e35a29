"""Per-document scores of many models: joined, looked up by content, and set out as a matrix."""

from collections.abc import Mapping, Sequence

import numpy as np

from fitness.errors import FitnessError
from fitness.samples import Floats, References, Sample, Selection
from fitness.types import DocumentScores, Metric, Scores

PROBABILITY = "probability"  # the metric of every task that has one: of the right answer


def join(known: Scores, new: Scores) -> dict[str, DocumentScores]:
    """Both; of a document that both have, the first one's scores."""
    return {key: _join(known.get(key), new.get(key)) for key in {**known, **new}}


def covers(scores: Scores, metric: Metric, documents: Sequence[str]) -> bool:
    """Whether every document (a content hash) has been scored."""
    return metric.key in scores and set(documents) <= set(scores[metric.key].documents)


def sample(
    scores: Scores, metric: Metric, documents: Sequence[str], selection: Selection
) -> Sample:
    """What a model scored on a selection.

    Args:
        scores: of one model, on at least these documents.
        metric: which of its scores.
        documents: content hashes of the task's whole set, which positions count in.
        selection: which of them.

    Raises:
        FitnessError: a document or the metric is missing.
    """
    wanted = [documents[p] for p in selection.positions]
    found = _look_up(scores, metric.key, wanted)
    soft = _soft(scores, metric, wanted)
    return Sample(selection, found[0], found[1], soft)


def references(
    models: Mapping[str, Scores], parents: int, metric: Metric, documents: Sequence[str]
) -> References:
    """The models that were scored on all documents, base and experts first.

    Args:
        models: name -> scores; the first `parents` are base and experts.
        parents: how many.
        metric: which of their scores.
        documents: content hashes of the task's whole set.
    """
    full = {n: s for n, s in models.items() if covers(s, metric, documents)}
    n_parents = sum(n in full for n in list(models)[:parents])
    rows, soft = [], []
    for scores in full.values():
        total, weight = _look_up(scores, metric.key, documents)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(np.where(weight > 0, total / weight, np.nan))
        own = _soft(scores, metric, documents)
        soft += [] if own is None else [own]
    complete = np.vstack(soft) if rows and len(soft) == len(rows) else None
    matrix = np.vstack(rows) if rows else np.empty((0, len(documents)))
    return References(tuple(full), n_parents, matrix, complete)


def _join(a: DocumentScores | None, b: DocumentScores | None) -> DocumentScores:
    if a is None or b is None:
        found = b if a is None else a
        assert found is not None
        return found
    have = set(a.documents)
    new = [i for i, d in enumerate(b.documents) if d not in have]
    return DocumentScores(
        (*a.documents, *(b.documents[i] for i in new)),
        np.concatenate([a.total, b.total[new]]),
        np.concatenate([a.weight, b.weight[new]]),
    )


def _soft(scores: Scores, metric: Metric, documents: Sequence[str]) -> Floats | None:
    key = f"{metric.task}/{PROBABILITY}"
    if metric.name == PROBABILITY or key not in scores:
        return None
    total, _ = _look_up(scores, key, documents)
    return np.asarray(total)


def _look_up(scores: Scores, key: str, documents: Sequence[str]) -> Floats:
    """(2, n) totals and weights of the documents."""
    if key not in scores:
        raise FitnessError(
            f"no scores for {key}: the panel lacks the task, or the metric is not a number "
            f"per document; scored: {', '.join(sorted(scores)) or 'nothing'}"
        )
    own = scores[key]
    place = {d: i for i, d in reversed(list(enumerate(own.documents)))}
    try:
        at = [place[d] for d in documents]
    except KeyError as missing:
        raise FitnessError(f"{key}: document {missing} was not scored") from None
    return np.vstack([own.total[at], own.weight[at]])
