"""Generalized regression: the references predict all documents, the panel corrects them.

A merge answers much as a mixture of its parents does. The mixture of the references' scores that
fits the panel best predicts every document of the task, and the design-weighted errors on the panel
are added: were the prediction useless, that would still be an (almost) unbiased estimate.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from fitness.estimators import Fitted
from fitness.estimators.stratified import weighted_mean
from fitness.samples import Floats, Sample, Setting
from fitness.sampling import design_stderr
from fitness.types import LINKS_OF_ALL, Estimate

PAPER = "Särndal, Swensson and Wretman 1992, eq. 6.4.1; ridge: Rao and Singh 1997"
PANEL = "disagreement"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 2
LINKS = LINKS_OF_ALL
RIDGE = 1.0  # documents that the equal mixture of all references, with no shift, is worth
LEAST = 0.2  # of 1 - leverage: a single document does not decide how wide the interval is


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run; null takes all."""

    documents: Annotated[int, Ge(4)] | None = 60


def fit(setting: Setting, _params: Params) -> Fitted:
    """The estimator of one metric: a weighted mean where no reference predicts it."""
    metric, references = setting.metric, setting.references
    known = references.score
    if metric.link != "mean" or not len(known) or not np.isfinite(known).all():
        return lambda sample: weighted_mean(sample, metric)
    answers: Floats = np.vstack([np.ones(known.shape[1]), known]).T  # (N, 1 + M)
    prior = np.r_[0.0, np.full(len(known), 1 / len(known))]
    penalty = RIDGE * np.eye(1 + len(known))

    def estimate(sample: Sample) -> Estimate:
        if not (sample.weight == 1).all():
            return weighted_mean(sample, metric)
        at = sample.selection.positions
        share = sample.selection.design_weight
        x = answers[at]
        scaled = x.T * (share * len(at))
        off = sample.total - x @ prior
        system = scaled @ x + penalty
        mixture = prior + np.linalg.solve(system, scaled @ off)
        # a mixture that has bent towards a document errs less there than elsewhere: by 1 - leverage
        leverage = np.einsum("ij,ji->i", x, np.linalg.solve(system, scaled))
        error = sample.total - x @ mixture
        correction = float(share @ error)
        value = float((answers @ mixture).mean()) + correction
        spread = (error - correction) / np.maximum(1 - leverage, LEAST)
        stderr = design_stderr(sample.selection, spread)
        return metric.aggregate(value, stderr, len(at))

    return estimate
