"""What a sample of a task's documents is: which ones, how probable, and what a model scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitness.types import Metric

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Selection:
    """The documents of one task that every candidate is scored on.

    Args:
        n_documents: N, of the task's whole set.
        positions: (n,) in the set, in the order in which they are run.
        inclusion: (n,) the probability with which each was chosen, in (0, 1]. Of clustered anchors,
            which are not drawn, the number that gives them the weight of their cluster.
        stratum: (n,) label of the stratum that each was drawn from.
        random: whether `inclusion` are probabilities: intervals that follow from them hold then.
    """

    n_documents: int
    positions: Ints
    inclusion: Floats
    stratum: Ints
    random: bool = True

    def __len__(self) -> int:
        return len(self.positions)

    def first(self, n: int) -> "Selection":
        """The first `n` documents: as the order is random, a sample with smaller probabilities."""
        share = n / len(self.positions)
        return Selection(
            self.n_documents,
            self.positions[:n],
            self.inclusion[:n] * share,
            self.stratum[:n],
            self.random,
        )

    @property
    def design_weight(self) -> Floats:
        """(n,) documents of the whole set that each one stands for, as a share; sums to 1."""
        weight = 1 / self.inclusion
        return np.asarray(weight / weight.sum(), dtype=np.float64)


def everything(n_documents: int) -> Selection:
    """All documents of a task, in order."""
    return Selection(
        n_documents,
        np.arange(n_documents),
        np.ones(n_documents),
        np.zeros(n_documents, dtype=np.int64),
    )


@dataclass(frozen=True, eq=False)
class References:
    """What models scored on one metric over all documents of a task: M rows, N columns.

    Args:
        names: (M,) base and experts first, then promoted candidates and models of other runs.
        parents: how many of the first rows are base and experts.
        score: (M, N) total over weight of each document; NaN where the task reports no value.
        soft: (M, N) probability of the right answer, in [0, 1]; None if the task has none.
    """

    names: tuple[str, ...]
    parents: int
    score: Floats
    soft: Floats | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Sample:
    """What one candidate scored on the documents of a selection, in the selection's order.

    Args:
        selection: the documents.
        total: (n,) as in `DocumentScores`.
        weight: (n,) as in `DocumentScores`; 0 where the task reports no value.
        soft: (n,) probability of the right answer; None if the task has none.
    """

    selection: Selection
    total: Floats
    weight: Floats
    soft: Floats | None = None

    @property
    def score(self) -> Floats:
        """(n,) total over weight; NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.weight > 0, self.total / self.weight, np.nan)


@dataclass(frozen=True, eq=False)
class Population:
    """What a selector may know of a task before any candidate is scored.

    Args:
        n_documents: N.
        references: fully scored models; without rows if there are none.
        labels: (N,) what `panel.by` says of each document; None if nothing was asked.
    """

    n_documents: int
    references: References
    labels: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Setting:
    """What an estimator is fitted to, once per metric and again when models were promoted.

    Args:
        metric: what is estimated.
        selection: the panel's documents of its task.
        references: fully scored models; without rows if there are none.
    """

    metric: Metric
    selection: Selection
    references: References


def no_references(n_documents: int) -> References:
    """No model was scored yet."""
    return References((), 0, np.empty((0, n_documents)))


Options = Any  # a plugin's own frozen dataclass of parameters
