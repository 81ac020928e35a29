"""NSGA-II: a genetic algorithm that ranks by dominance and keeps the front spread out."""

from collections.abc import Sequence

from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from search_spaces.genes import Gene, Genome

PAPER = "Deb et al. 2002, doi:10.1109/4235.996017"
OBJECTIVES = "many"
Params = GeneticParams


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    cube = UnitCube(genes)
    algorithm = NSGA2(
        **variation(cube, params, initial),
        selection=TournamentSelection(func_comp=binary_tournament),
        survival=RankAndCrowding(),
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
