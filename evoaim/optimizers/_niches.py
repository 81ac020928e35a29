"""Resource competition over documents: who gets how much of which, who mates, who stays.

Abrantes, Lange and Tang 2025 (M2N2), arXiv:2508.16204, section 3; continuous scores are scaled.
"""

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]  # (n_members, n_documents)


def solved(scores: Table, feasible: NDArray[np.bool_]) -> Table:
    """How well each document is solved, in [0, 1], from scores in any unit.

    Scaled per document from the worst to the best feasible member; documents on which those do not
    differ are dropped. What is NaN (not run) is not solved; infeasible members solve nothing.
    """
    known = np.isfinite(scores) & feasible[:, None]
    low = np.where(known, scores, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, scores, -np.inf).max(axis=0, initial=-np.inf)
    telling = high > low
    low, high, scores, known = low[telling], high[telling], scores[:, telling], known[:, telling]
    return np.where(known, (scores - low) / (high - low), 0.0)


def ladders(losses: Table) -> Table:
    """Documents made up from losses (n_members, n_objectives), where no scores were given.

    One for every member and objective: solved by those that do at least as well as the member.
    The hard ones, at the top of an objective, then belong to few.
    """
    reached = losses[:, None, :] <= losses[None, :, :]
    return reached.reshape(len(losses), -1).astype(float)


def shares(table: Table, alpha: float) -> Table:
    """What each member gets of each document: its score by the total of all, to the power alpha.

    alpha 1: a document is divided among those who solve it; 0: no competition.
    """
    total = table.sum(axis=0)
    share: Table = table / np.where(total == 0, 1.0, total) ** alpha
    return share


def attraction(share: Table, first: int) -> NDArray[np.float64]:
    """(n_members,): what each one has beyond the member `first`: how good a mate it is for it."""
    beyond: NDArray[np.float64] = np.maximum(0.0, share - share[first]).sum(axis=1)
    return beyond


def survivors(
    table: Table, violations: NDArray[np.float64], size: int, alpha: float
) -> NDArray[np.int64]:
    """Indices of the `size` that stay; the least fit goes, then all are compared again.

    Infeasible ones go first, the farthest before the others.
    """
    alive = np.arange(len(table))
    while len(alive) > size:
        fitness = shares(table[alive], alpha).sum(axis=1)
        worst = np.lexsort((fitness, -violations[alive]))[0]
        alive = np.delete(alive, worst)
    return alive


def drawn(weights: NDArray[np.float64], rng: np.random.Generator) -> int:
    """An index drawn in proportion to `weights`; uniformly where all are 0."""
    total = weights.sum()
    chances = weights / total if total > 0 else None
    return int(rng.choice(len(weights), p=chances))
