"""Optimizers behind one ask/tell: each module here is one optimizer, named as its file.

A module declares `PAPER` (a string), `OBJECTIVES` ("one" or "many": how many it can handle; refused
by `_check.check_objectives`), `Params` (a frozen dataclass: its options with defaults, bounds as
`annotated_types` marks), and `build(genes, n_objectives, params, seed, initial) -> Proposer`. One
that learns from the scores of single documents also declares `DOCUMENTS = True`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.genes import Genome

# (n_asked, n_objectives), lower is better; a row that is not finite is a failed candidate
Losses = NDArray[np.float64]
# (n_asked,), by how much a candidate is infeasible; 0 or less: it is not. One that was raced out,
# whose losses are estimates from few documents, has 1 or more.
Violations = NDArray[np.float64]
# (n_asked, n_documents), higher is better; NaN where a candidate was not run
Documents = NDArray[np.float64]


class Proposer(Protocol):
    """Proposes genomes and learns from their losses.

    Same genes, parameters, seed, initial genomes and tells give the same asks, whatever happens to
    global random state in between; a search is therefore resumed by replaying its recorded losses.
    """

    def ask(self) -> Sequence[Genome]:
        """The next genomes to evaluate, canonical (see `search_spaces.genes.canonical`).

        The batch size is the optimizer's own. The `initial` genomes come first. No genome is asked
        twice; an empty list means that the optimizer finds no new ones and is finished.
        """

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,
    ) -> None:
        """One row per genome of the last ask, in that order.

        Feasible candidates are preferred to infeasible ones, whatever the losses, these by their
        violations (None: all are feasible), and all of them to failed ones. `documents` is None
        unless the module declares `DOCUMENTS`; its columns are the same in every tell.
        """


def ranked_violations(losses: Losses, violations: Violations | None) -> Violations:
    """(n_asked,): 0 for feasible candidates, inf for failed ones."""
    given = np.zeros(len(losses)) if violations is None else violations
    failed = ~np.isfinite(np.column_stack([losses, given])).all(axis=1)
    return np.where(failed, np.inf, np.maximum(given, 0.0))
