"""p-IRT: scores of the panel's documents, and what a model's ability predicts for the others.

Its level is closer to the truth than the panel's weighted mean (experiments/few_documents says by
how much), and biased towards the references' scores: for display, never for ranking. Only the
predictions are the model's; the standard error does not trust them.
"""

from typing import Literal

from fitness.estimators import Fitted
from fitness.estimators._irt import Params, by_ability, fitted
from fitness.samples import Setting
from fitness.types import Link

PAPER = "Polo et al., tinyBenchmarks (2024), arXiv 2402.14992, p-IRT; items by MAP"
PANEL = "disagreement"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 8
LINKS: tuple[Link, ...] = ("mean",)

__all__ = ["LINKS", "PANEL", "PAPER", "RANK", "REFERENCES", "Params", "fit"]


def fit(setting: Setting, params: Params) -> Fitted:  # noqa: ARG001
    """Items from the references' scores; a candidate's ability from its panel.

    Raises:
        FitnessError: the metric is no mean of scores in [0, 1], or there are fewer than 2
            references.
    """
    return fitted(setting, by_ability, lambda _: 0.0)
