"""mp-IRT: p-IRT whose abilities are mixtures of the merged models' abilities.

With one dimension, which is what few references allow, a mixture can reach every ability, and this
is p-IRT with a prior around the parents' mean; it estimates no better (see
experiments/few_documents). Two references already did no harm in simulations on merges of small
models.
"""

from typing import Literal

from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.estimators._irt import Params, by_mixture, fitted
from fitness.samples import Setting
from fitness.types import Link

PAPER = "Mencattini et al., MERGE^3 (2025), arXiv 2502.10436, mp-IRT; items by MAP"
PANEL = "disagreement"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 2
LINKS: tuple[Link, ...] = ("mean",)

__all__ = ["LINKS", "PANEL", "PAPER", "RANK", "REFERENCES", "Params", "fit", "with_parents"]


def fit(setting: Setting, params: Params) -> Fitted:  # noqa: ARG001
    """Items from all references; a candidate's mixture of base and experts from its panel.

    Raises:
        FitnessError: the metric is no mean of scores in [0, 1], or there are fewer than 2 parents.
    """
    return fitted(with_parents(setting), by_mixture, lambda _: 0.0)


def with_parents(setting: Setting) -> Setting:
    """The setting.

    Raises:
        FitnessError: fewer than 2 of its references are parents.
    """
    if setting.references.parents < 2:
        raise FitnessError(
            f"metric {setting.metric.key}: mp_irt and gmp_irt mix the abilities of at least 2 "
            f"parents (base and experts) scored on all documents, got {setting.references.parents}"
            "; use the estimator 'p_irt'"
        )
    return setting
