"""gmp-IRT: mp-IRT blended with the panel's weighted mean in a fixed proportion.

See `fitness.estimators.mp_irt`; `fitness.estimators.gp_irt` blends by measured error.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from fitness.estimators import Fitted
from fitness.estimators._irt import by_mixture, fitted
from fitness.estimators.mp_irt import with_parents
from fitness.samples import Setting
from fitness.types import Link

PAPER = "Mencattini et al., MERGE^3 (2025), arXiv 2502.10436, gmp-IRT; items by MAP"
PANEL = "disagreement"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 2
LINKS: tuple[Link, ...] = ("mean",)


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run, and how much their mean counts.

    Args:
        documents: per task; null takes all.
        delta: weight of the panel's mean; the rest is mp-IRT's. The paper's code has 0.5.
    """

    documents: Annotated[int, Ge(2)] | None = 60
    delta: Annotated[float, Ge(0), Le(1)] = 0.5


def fit(setting: Setting, params: Params) -> Fitted:
    """Items from all references; a candidate's mixture of base and experts from its panel.

    Raises:
        FitnessError: the metric is no mean of scores in [0, 1], or there are fewer than 2 parents.
    """
    return fitted(with_parents(setting), by_mixture, lambda _: params.delta)
