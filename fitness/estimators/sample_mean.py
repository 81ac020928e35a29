"""Mean over a random panel; the ratio of totals for metrics that weight documents."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fitness.errors import FitnessError
from fitness.panel import random_panel
from fitness.types import DocumentScores, Estimate, Metric, Panel

PAPER = "Cochran, Sampling Techniques (1977): eq. 2.20, ratios eq. 6.13"


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run; null takes all."""

    documents: Annotated[int, Ge(2)] | None = 60


def panel(sizes: Mapping[str, int], params: Params, seed: int) -> Panel:
    """A random panel without replacement.

    Raises:
        FitnessError: a task has fewer documents.
    """
    return random_panel(sizes, params.documents, seed)


def estimate(scores: DocumentScores, metric: Metric) -> Estimate:
    """Ratio of totals R = sum t / sum w with its delta-method standard error.

    The error is that of a sample of a large population (no finite-population factor), as
    lm-eval's: over a whole test split it says how far the figure would move with other documents.

    Raises:
        FitnessError: fewer than two documents carry a value.
    """
    present = scores.weight > 0
    total, weight = scores.total[present], scores.weight[present]
    n = len(total)
    if n < 2:
        raise FitnessError(
            f"metric {metric.key}: at least 2 documents with a value expected, got {n}"
        )
    ratio = float(total.sum() / weight.sum())
    residual = total - ratio * weight  # eq. 6.13: linearised; equals t - mean where all w are 1
    stderr = math.sqrt(float(np.square(residual).sum()) / (n - 1) / n) / float(weight.mean())
    return metric.aggregate(ratio, stderr)
