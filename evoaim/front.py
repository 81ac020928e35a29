"""Pareto fronts as pure functions of losses: dominance, hypervolume, and picking a compromise."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evoaim.errors import ConfigError
from search_spaces.errors import unknown

Losses = NDArray[np.float64]  # (n, n_objectives), lower is better


def nondominated(losses: Losses) -> NDArray[np.bool_]:
    """Which rows no other dominates; never rows with NaN; of equal rows only the first: (n,).

    Time grows with the number of rows times that of the rows that are kept.
    """
    keep = np.zeros(len(losses), dtype=np.bool_)
    left = np.flatnonzero(np.isfinite(losses).all(axis=1))
    # in lexicographic order whatever dominates or equals a row comes before it
    left = left[np.lexsort(losses[left].T[::-1])]
    while len(left):
        keep[left[0]] = True
        left = left[(losses[left] < losses[left[0]]).any(axis=1)]
    return keep


def hypervolume(losses: Losses, reference: NDArray[np.float64]) -> float:
    """Volume that the rows dominate below the reference point; rows with NaN are left out."""
    import moocore

    inside = losses[np.isfinite(losses).all(axis=1)]
    inside = inside[(inside < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def reference_point(parents: Losses) -> NDArray[np.float64]:
    """The corner that hypervolumes are measured from: the parents' worst and a tenth of their span.

    One point for a whole run, known before its first candidate: (n_objectives,).
    """
    worst, best = parents.max(axis=0), parents.min(axis=0)
    margin = np.where(worst > best, 0.1 * (worst - best), 0.1 * np.maximum(np.abs(worst), 1e-3))
    return np.asarray(worst + margin, dtype=np.float64)


def knee(losses: Losses) -> int:
    """Row nearest to the ideal point after scaling every objective to [0, 1] over the front."""
    low, span = losses.min(axis=0), np.ptp(losses, axis=0)
    scaled = (losses - low) / np.where(span > 0, span, 1.0)
    return int(np.linalg.norm(scaled, axis=1).argmin())


def spread(losses: Losses, n: int) -> list[int]:
    """`n` rows that are far apart: the best of every objective, then always the farthest one.

    Distances are taken after scaling every objective to [0, 1] over the rows; ties go to the first.
    """
    low, span = losses.min(axis=0), np.ptp(losses, axis=0)
    scaled = (losses - low) / np.where(span > 0, span, 1.0)
    chosen = list(dict.fromkeys(int(i) for i in scaled.argmin(axis=0)))[:n]
    while len(chosen) < min(n, len(losses)):
        distance = np.linalg.norm(scaled[:, None] - scaled[chosen], axis=2).min(axis=1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


def layered(losses: Losses, n: int) -> list[int]:
    """`n` rows by non-dominated layers, within a layer those first that are far apart.

    Rows with NaN are left out.
    """
    left = np.flatnonzero(np.isfinite(losses).all(axis=1))
    chosen: list[int] = []
    while len(left) and len(chosen) < n:
        layer = left[nondominated(losses[left])]
        chosen += [int(i) for i in layer[spread(losses[layer], n - len(chosen))]]
        left = np.setdiff1d(left, layer)
    return chosen


def weighted(losses: Losses, names: Sequence[str], weights: Mapping[str, float]) -> int:
    """Row with the least weighted sum of losses, each scaled to [0, 1] over the front.

    Raises:
        ConfigError: a weight for an objective that does not exist, or none above 0.
    """
    for name in weights:
        if name not in names:
            raise ConfigError(f"--pick: {unknown('objective', name, names)}")
    w = np.array([weights.get(n, 0.0) for n in names])
    if not (w >= 0).all() or not 0 < w.sum() < np.inf:
        raise ConfigError(f"--pick: weights must be 0 or more, one of them above 0, got {weights}")
    low, span = losses.min(axis=0), np.ptp(losses, axis=0)
    return int((((losses - low) / np.where(span > 0, span, 1.0)) @ w).argmin())
