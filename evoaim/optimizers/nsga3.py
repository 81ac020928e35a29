"""NSGA-III: keeps, of each front, the candidates nearest to evenly spread reference directions."""

from collections.abc import Sequence

from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._directions import directions
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, prefer_feasible, variation
from search_spaces.genes import Gene, Genome

PAPER = "Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535"
OBJECTIVES = "many"
Params = GeneticParams


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`), with as many directions as candidates."""
    cube = UnitCube(genes)
    algorithm = NSGA3(
        ref_dirs=directions(n_objectives, params.population),
        **variation(cube, params, initial),
        selection=TournamentSelection(func_comp=prefer_feasible),
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
