"""The genetic algorithm for one objective: tournaments, crossover, mutation, the best survive."""

from collections.abc import Sequence

from pymoo.algorithms.soo.nonconvex.ga import GA, FitnessSurvival, comp_by_cv_and_fitness
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.display.single import SingleObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from search_spaces.genes import Gene, Genome

PAPER = "Holland 1975; operators: Deb and Agrawal 1995, Deb and Goyal 1996"
OBJECTIVES = "one"
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
    algorithm = GA(
        **variation(cube, params, initial),
        selection=TournamentSelection(func_comp=comp_by_cv_and_fitness),
        survival=FitnessSurvival(),
        output=SingleObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
