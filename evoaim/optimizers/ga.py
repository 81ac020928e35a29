"""The genetic algorithm for one objective: tournaments, crossover, mutation, the best survive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from pymoo.algorithms.soo.nonconvex.ga import GA, FitnessSurvival, comp_by_cv_and_fitness
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.display.single import SingleObjectiveOutput

from evoaim.optimizers import Proposer
from evoaim.optimizers._pymoo import PymooProposer, UnitCube, mixed_mutation, seeded_sampling
from search_spaces.genes import Gene, Genome

PAPER = "Holland 1975; operators: Deb and Agrawal 1995, Deb and Goyal 1996"
OBJECTIVES = "one"


@dataclass(frozen=True)
class Params:
    """Candidates a generation; nearness of children to parents (see `nsga2`)."""

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
    algorithm = GA(
        pop_size=params.population,
        sampling=seeded_sampling(cube, initial),
        selection=TournamentSelection(func_comp=comp_by_cv_and_fitness),
        crossover=SBX(eta=params.crossover_eta, prob=0.9),
        mutation=mixed_mutation(cube, params.mutation_eta),
        survival=FitnessSurvival(),
        eliminate_duplicates=cube,
        output=SingleObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)
