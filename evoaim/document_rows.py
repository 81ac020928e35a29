"""Candidates' scores on single documents, as the table that an optimizer is told."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evoaim.errors import ConfigError
from evoaim.ledger import Trial

Row = NDArray[np.float64]  # (n_documents,), larger is better; (0,): there are none


class DocumentRows:
    """Rows that were told, and where the others come from."""

    def __init__(self, source: Callable[[Trial], Row], recorded: bool) -> None:
        """Begin without rows.

        Args:
            source: gives the rows of trials that were not told here.
            recorded: whether the trials outlive this process, which told rows do not.
        """
        self._source, self._recorded = source, recorded
        self._told: dict[int, Row] = {}

    def keep(self, number: int, row: Row) -> None:
        """A trial's row.

        Raises:
            ConfigError: of another length than the others, or the trials are recorded.
        """
        if self._recorded:
            raise ConfigError(
                "documents: are not recorded, so a resumed search would lack them; leave `study` "
                "out, or the documents"
            )
        wanted = next((r.shape for r in self._told.values()), (len(row),))
        if row.shape != wanted:
            raise ConfigError(f"documents: an array {wanted} expected, as before, got {row.shape}")
        self._told[number] = row

    def table(self, trials: Sequence[Trial]) -> NDArray[np.float64] | None:
        """(n_trials, n_documents), NaN for trials without a row; None if none has one."""
        rows = [self._row(t) for t in trials]
        width = max(map(len, rows))
        if width == 0:
            return None
        return np.array([row if len(row) else np.full(width, np.nan) for row in rows])

    def _row(self, trial: Trial) -> Row:
        if trial.number in self._told:
            return self._told[trial.number]
        return self._source(trial) if trial.state == "done" else np.empty(0)
