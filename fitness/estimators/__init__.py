"""Estimators: from a panel's per-document scores to the metric over all documents.

A plugin is one module of this package; its file name is the estimator's name. It declares `PAPER`
and the frozen dataclass `Params` (defaults, bounds as `annotated_types`), and two pure functions:

* `panel` says which documents must be run. It draws nothing from global generators, and it depends
  on nothing that a candidate answered, so that all candidates of a search share one panel.
* `estimate` reads the scores of one metric on that panel, in any order of documents.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from fitness.types import DocumentScores, Estimate, Metric, Panel


class Estimator(Protocol):
    """What a module of this package offers."""

    PAPER: str  # where the estimator is described
    Params: Any  # the dataclass of its parameters

    def panel(self, sizes: Mapping[str, int], params: Any, seed: int) -> Panel:
        """The documents to run, of `sizes[task]` each task has.

        Raises:
            FitnessError: a task has too few documents.
        """
        ...

    def estimate(self, scores: DocumentScores, metric: Metric) -> Estimate:
        """The metric over the task's whole document set, in natural units, and its standard error.

        Raises:
            FitnessError: too few documents carry a value.
        """
        ...
