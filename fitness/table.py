"""A candidate's scores on single documents as one row of a table that optimizers learn from."""

import numpy as np
from numpy.typing import NDArray

from fitness.scheme import Scheme
from fitness.types import Link, Metric, Objective, Scores

FALLING: tuple[Link, ...] = ("exp_neg_mean", "bits")  # the metric falls as the total grows


def panel_row(scheme: Scheme, scores: Scores) -> NDArray[np.float64]:
    """Scores on the panel's documents, larger is better, NaN where one was not run.

    Metric by metric of the optimized objectives, the documents in the order they are run:
    (n_metrics * n_documents,), the same columns for every candidate of a search.
    """
    rows = [_row(scheme, scores, o, m) for o in scheme.objectives if o.optimized for m in o.metrics]
    return np.concatenate(rows)


def _row(
    scheme: Scheme, scores: Scores, objective: Objective, metric: Metric
) -> NDArray[np.float64]:
    pool = scheme.pools[metric.task]
    wanted = [pool.documents[p] for p in scheme.selections[metric.task].positions]
    found = scores[metric.key]
    at = {document: i for i, document in enumerate(found.documents)}
    with np.errstate(invalid="ignore"):
        ratio = found.total / np.where(found.weight > 0, found.weight, np.nan)
    sign = -1.0 if metric.link in FALLING else 1.0
    values = [sign * ratio[at[d]] if d in at else np.nan for d in wanted]
    return np.array([-objective.loss(value) for value in values])
