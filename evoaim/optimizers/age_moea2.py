"""AGE-MOEA-II: fits the curvature of the front and spreads candidates along it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.display.multi import MultiObjectiveOutput
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evoaim.optimizers import Losses, Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from evoaim.optimizers._survival import FeasibleFirst, prefer_earlier
from search_spaces.genes import Gene, Genome

PAPER = "Panichella 2022, doi:10.1145/3512290.3528732"
OBJECTIVES = "many"
Params = GeneticParams

_P = (0.1, 20.0)  # between which the exponent of the front's p-norm is sought
_TINY = 1e-12


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`).

    Survival is our own: pymoo's is compiled anew in every process, for ten seconds.
    """
    cube = UnitCube(genes)
    algorithm = GeneticAlgorithm(
        **variation(cube, params, initial),
        selection=TournamentSelection(func_comp=prefer_earlier),
        survival=FeasibleFirst(select),
        advance_after_initial_infill=True,
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)


def select(losses: Losses, n: int) -> NDArray[np.intp]:
    """The `n` that survive of (n_candidates, n_objectives): by front, then by survival score."""
    fronts = NonDominatedSorting().do(losses, n_stop_if_ranked=n)
    shifted = losses - losses[fronts[0]].min(axis=0)
    corners = fronts[0][_corners(shifted[fronts[0]])]
    scaled = shifted / _intercepts(shifted[corners], shifted[fronts[0]])
    p = exponent(np.delete(scaled[fronts[0]], np.flatnonzero(np.isin(fronts[0], corners)), axis=0))
    norms = np.maximum((scaled**p).sum(axis=1) ** (1 / p), _TINY)
    scores = 1 / norms
    scores[fronts[0]] = _spread(scaled[fronts[0]], norms[fronts[0]], p, np.isin(fronts[0], corners))
    ordered = [front[np.argsort(-scores[front], kind="stable")] for front in fronts]
    return np.concatenate(ordered)[:n]


def exponent(front: Losses) -> float:
    """The p of the unit p-sphere through the point of a scaled front nearest to the diagonal.

    Below 1 for a convex front, 1 for a plane, above 1 for a concave one; 1 where it is undefined.
    """
    inner = front[((front > 0) & (front < 1)).all(axis=1)]
    if len(inner) == 0 or inner.shape[1] == 1:
        return 1.0
    centre = np.log(inner[(inner.std(axis=1) / inner.mean(axis=1)).argmin()])
    low, high = _P
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(middle * centre).sum() > 1 else (low, middle)
    return low


def _corners(front: Losses) -> NDArray[np.intp]:
    # For every axis the point nearest to it.
    squares = (front**2).sum(axis=1)[:, None] - front**2
    return np.unique(squares.argmin(axis=0))


def _intercepts(corners: Losses, front: Losses) -> NDArray[np.float64]:
    # Of the plane through the corners with the axes; the front's extent where there is none.
    extent = front.max(axis=0)
    if corners.shape[0] == corners.shape[1] and np.linalg.matrix_rank(corners) == len(corners):
        plane = np.linalg.solve(corners, np.ones(len(corners)))
        if (plane > 0).all():
            extent = 1 / plane
    return np.where(extent > _TINY, extent, 1.0)


def _spread(
    front: Losses, norms: NDArray[np.float64], p: float, corner: NDArray[np.bool_]
) -> NDArray[np.float64]:
    # Taken one after the other: the farthest, along the front, from the two nearest ones taken.
    on_sphere = front / norms[:, None]
    middles = (on_sphere[:, None] + on_sphere) / 2
    sizes = np.maximum((middles**p).sum(axis=2) ** (1 / p), _TINY)
    arcs = np.linalg.norm(on_sphere[:, None] - middles / sizes[..., None], axis=2)
    distances = (arcs + arcs.T) / norms[:, None]
    scores = np.where(corner, np.inf, 0.0)
    taken = corner.copy()
    while not taken.all():
        rest = np.flatnonzero(~taken)
        near = np.sort(distances[np.ix_(rest, np.flatnonzero(taken))], axis=1)[:, :2].sum(axis=1)
        best = int(near.argmax())
        scores[rest[best]] = near[best]
        taken[rest[best]] = True
    return scores
