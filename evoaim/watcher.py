"""Who is told how a search goes on."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evoaim.ledger import Trial
from evoaim.standing import Standing


class Watcher(Protocol):
    """Who is told how a search goes on, also while recorded trials are replayed."""

    def batch_begins(self, standing: Standing) -> None:
        """The optimizer has proposed a batch; everything before it has been told."""

    def candidate(self, standing: Standing) -> None:
        """A candidate was evaluated now."""

    def batch_ends(self, standing: Standing) -> None:
        """The optimizer has been told a whole batch."""

    def documents(self, trial: Trial) -> NDArray[np.float64]:
        """A finished trial's scores on single documents, higher is better: (n_documents,)."""


class Unwatched:
    """Nobody watches; there are no documents."""

    def batch_begins(self, standing: Standing) -> None:
        """Nothing."""

    def candidate(self, standing: Standing) -> None:
        """Nothing."""

    def batch_ends(self, standing: Standing) -> None:
        """Nothing."""

    def documents(self, trial: Trial) -> NDArray[np.float64]:  # noqa: ARG002
        """None at all."""
        return np.empty(0)
