"""Plain mean over the panel; the ratio of totals for metrics that weight documents."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.samples import Floats, Sample, Setting
from fitness.types import LINKS_OF_ALL, Estimate, Metric

PAPER = "Cochran, Sampling Techniques (1977): eq. 2.20, ratios eq. 6.13"
PANEL = "random"
RANK: Literal["value", "panel"] = "value"
REFERENCES = 0
LINKS = LINKS_OF_ALL


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run; null takes all."""

    documents: Annotated[int, Ge(2)] | None = 60


def fit(setting: Setting, _params: Params) -> Fitted:
    """The estimator of one metric; nothing is fitted."""
    metric = setting.metric

    def estimate(sample: Sample) -> Estimate:
        return mean(sample.total, sample.weight, metric)

    return estimate


def mean(total: Floats, weight: Floats, metric: Metric) -> Estimate:
    """Ratio of totals R = sum t / sum w with its delta-method standard error.

    The error is that of a sample of a large population (no finite-population factor), as
    lm-eval's: over a whole test split it says how far the figure would move with other documents.
    A figure of the weights has no documents and no error.

    Args:
        total: (n,) as in `DocumentScores`.
        weight: (n,) as in `DocumentScores`.
        metric: says how the ratio becomes a value.

    Raises:
        FitnessError: fewer than two documents carry a value.
    """
    present = weight > 0
    t, w = total[present], weight[present]
    n = len(t)
    if metric.link == "exact" and n:
        return Estimate(float(t.sum() / w.sum()), 0.0, None, n)
    if n < 2:
        raise FitnessError(
            f"metric {metric.key}: at least 2 documents with a value expected, got {n}"
        )
    ratio = float(t.sum() / w.sum())
    residual = t - ratio * w  # eq. 6.13: linearised; equals t - mean where all w are 1
    stderr = math.sqrt(float(np.square(residual).sum()) / (n - 1) / n) / float(w.mean())
    return metric.aggregate(ratio, stderr, n)
