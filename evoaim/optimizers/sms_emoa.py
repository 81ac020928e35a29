"""SMS-EMOA: drops, of the last front, the candidates that add the least hypervolume."""

from collections.abc import Sequence

import numpy as np
from moocore import hv_contributions
from numpy.typing import NDArray
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.algorithms.moo.sms import cv_and_dom_tournament
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.display.multi import MultiObjectiveOutput
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evoaim.optimizers import Losses, Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from evoaim.optimizers._survival import FeasibleFirst
from search_spaces.genes import Gene, Genome

PAPER = "Beume, Naujoks and Emmerich 2007, doi:10.1016/j.ejor.2006.08.008"
OBJECTIVES = "many"
Params = GeneticParams

_REFERENCE = 11.0  # where the last front spans 0 to 1: so far off that its ends are kept


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`); a generation at a time, not one candidate."""
    cube = UnitCube(genes)
    algorithm = GeneticAlgorithm(
        **variation(cube, params, initial),
        selection=TournamentSelection(func_comp=cv_and_dom_tournament),
        survival=FeasibleFirst(select),
        advance_after_initial_infill=True,
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)


def select(losses: Losses, n: int) -> NDArray[np.intp]:
    """The `n` that survive of (n_candidates, n_objectives): whole fronts, then by hypervolume.

    pymoo's own refuses one objective, where equal losses are a front, too.
    """
    fronts = NonDominatedSorting().do(losses, n_stop_if_ranked=n)
    whole = np.concatenate([np.empty(0, dtype=np.intp), *fronts[:-1]])
    last = fronts[-1]
    extent = np.ptp(losses[last], axis=0)
    scaled = (losses[last] - losses[last].min(axis=0)) / np.where(extent > 0, extent, 1.0)
    while len(whole) + len(last) > n:
        least = _contributions(scaled).argmin()
        last, scaled = np.delete(last, least), np.delete(scaled, least, axis=0)
    return np.concatenate([whole, last])


def _contributions(front: Losses) -> NDArray[np.float64]:
    if front.shape[1] == 1:
        return np.zeros(len(front))
    added: NDArray[np.float64] = hv_contributions(front, ref=_REFERENCE)
    return added
