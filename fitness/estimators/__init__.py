"""Estimators: from a panel's per-document scores to the metric over all documents.

A plugin is one module of this package; its file name is the estimator's name. It declares:

* `PAPER`;
* `PANEL`: the selector (a name of `fitness.selectors`) that it takes unless the user asks for
  another;
* `RANK`: what candidates are compared by, "value" (the estimate itself) or "panel" (their mean
  over the panel's documents, see `fitness.ranking`);
* `REFERENCES`: how many fully scored models it needs;
* `LINKS`: the kinds of metrics that it can estimate;
* `Params`: a frozen dataclass with at least `documents` (per task; null takes all), bounds as
  `annotated_types`;
* `fit(setting, params)`: everything that does not depend on the candidate. It is called before the
  first candidate and again when promoted candidates have become references; the `Fitted` that it
  returns turns one candidate's sample into an estimate. Pure, and no global generators.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from fitness.samples import Options, Sample, Setting
from fitness.types import Estimate, Link

# raises FitnessError where too few documents carry a value
Fitted = Callable[[Sample], Estimate]


class Estimator(Protocol):
    """What a module of this package offers."""

    PAPER: str
    PANEL: str
    RANK: Literal["value", "panel"]
    REFERENCES: int
    LINKS: tuple[Link, ...]
    Params: type[Options]

    def fit(self, setting: Setting, params: Options) -> Fitted:
        """The estimator of one metric.

        Raises:
            FitnessError: the metric is of a kind that the estimator cannot estimate.
        """
        ...
