"""Reference directions: points spread over the simplex of the objectives' weights."""

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Directions = NDArray[np.float64]  # (n, n_objectives), not negative, rows add up to 1


def directions(n_objectives: int, n: int) -> Directions:
    """`n` of them, evenly spread; equal ones when there is one objective.

    The lattice of Das and Dennis 1998 where one has `n` points (always for two objectives), else a
    part of the next larger one: its corners first, then whatever is farthest from those taken.
    """
    if n_objectives == 1:
        return np.ones((n, 1))
    steps = 1
    while comb(steps + n_objectives - 1, steps) < n:
        steps += 1
    lattice = _lattice(n_objectives, steps)
    taken = list(np.argsort(-lattice.max(axis=1), kind="stable")[: min(n_objectives, n)])
    gaps = np.linalg.norm(lattice[:, None] - lattice[taken], axis=2).min(axis=1)
    while len(taken) < n:
        taken.append(int(gaps.argmax()))
        gaps = np.minimum(gaps, np.linalg.norm(lattice - lattice[taken[-1]], axis=1))
    return lattice[sorted(taken)]


def _lattice(n_objectives: int, steps: int) -> Directions:
    # Stars and bars: the gaps between n_objectives - 1 bars among the steps.
    n_places = steps + n_objectives - 1
    bars = np.array(list(combinations(range(n_places), n_objectives - 1)))
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, n_places)))
    return (np.diff(edges, axis=1) - 1) / steps
