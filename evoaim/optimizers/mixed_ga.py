"""A genetic algorithm for mixed spaces: options and whole numbers are swapped, never blended."""

from collections.abc import Sequence

from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from evoaim.optimizers._variation import MixedCrossover, active_mutation
from search_spaces.genes import Gene, Genome, Real

PAPER = "Li et al. 2013, doi:10.1162/EVCO_a_00059; survival: Deb et al. 2002"
OBJECTIVES = "many"
Params = GeneticParams


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`); only genes that are active mutate."""
    cube = UnitCube(genes)
    operators = {
        "crossover": MixedCrossover(genes, (Real,), params.crossover_eta),
        "mutation": active_mutation(cube, params.mutation_eta),
    }
    algorithm = NSGA2(
        **variation(cube, params, initial) | operators,
        selection=TournamentSelection(func_comp=binary_tournament),
        survival=RankAndCrowding(),
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
