"""NSGA-II: a genetic algorithm that ranks by dominance and keeps the front spread out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._pymoo import PymooProposer, UnitCube, mixed_mutation, seeded_sampling
from search_spaces.genes import Gene, Genome

PAPER = "Deb et al. 2002, doi:10.1109/4235.996017"
OBJECTIVES = "many"


@dataclass(frozen=True)
class Params:
    """Candidates a generation; nearness of children to parents: a larger eta searches closer."""

    population: Annotated[int, Ge(2)] = 16
    crossover_eta: Annotated[float, Ge(1), Le(100)] = 3.0
    mutation_eta: Annotated[float, Ge(1), Le(100)] = 3.0


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
        pop_size=params.population,
        sampling=seeded_sampling(cube, initial),
        selection=TournamentSelection(func_comp=binary_tournament),
        crossover=SBX(eta=params.crossover_eta, prob=0.9),
        mutation=mixed_mutation(cube, params.mutation_eta),
        survival=RankAndCrowding(),
        output=MultiObjectiveOutput(),
        eliminate_duplicates=cube,
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
