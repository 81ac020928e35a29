"""gp-IRT: p-IRT blended with the panel's weighted mean, by how well either does on the references.

The mean is unbiased and noisy, the model biased and almost free of noise; the weight is the one
that would be best if the model's error were all bias. See `fitness.estimators.p_irt`.
"""

from typing import Literal

import numpy as np

from fitness.estimators import Fitted
from fitness.estimators._irt import Params, Validation, by_ability, fitted
from fitness.samples import Setting
from fitness.types import Link

PAPER = "Polo et al., tinyBenchmarks (2024), arXiv 2402.14992, gp-IRT; items by MAP"
PANEL = "disagreement"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 8
LINKS: tuple[Link, ...] = ("mean",)
CLUSTERED = 4.0  # random documents that one clustered anchor is worth, as the paper's code has it

__all__ = ["LINKS", "PANEL", "PAPER", "RANK", "REFERENCES", "Params", "fit"]


def fit(setting: Setting, params: Params) -> Fitted:  # noqa: ARG001
    """Items and the blend from the references' scores; a candidate's ability from its panel.

    The blend is b^2 / (v / n + b^2): b is the mean absolute error on references left out of the
    fit, v the mean variance of a model's scores. Of a panel drawn with unequal probabilities n is
    the number of equally weighted documents that are as precise.

    Raises:
        FitnessError: the metric is no mean of scores in [0, 1], or there are fewer than 2
            references.
    """
    worth = 1.0 if setting.selection.random else CLUSTERED

    def share(validation: Validation) -> float:
        bias = float(np.abs(validation.error).mean()) ** 2
        noise = validation.spread / (worth * validation.effective)
        return bias / (bias + noise) if bias > 0 else 0.0

    return fitted(setting, by_ability, share)
