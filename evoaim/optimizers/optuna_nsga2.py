"""Optuna's NSGA-II: as `nsga2`, but genes are swapped between parents rather than blended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from optuna.samplers import NSGAIISampler

from evoaim.optimizers import Proposer
from evoaim.optimizers._optuna import OptunaProposer, new_study, unconditional
from search_spaces.genes import Gene, Genome

PAPER = "Deb et al. 2002, doi:10.1109/4235.996017; uniform crossover, uniform mutation"
OBJECTIVES = "many"


@dataclass(frozen=True)
class Params:
    """Candidates a generation; the chance that a gene comes from the other parent."""

    population: Annotated[int, Ge(2)] = 16
    swap: Annotated[float, Ge(0.01), Le(1)] = 0.5


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    sampler = NSGAIISampler(population_size=params.population, swapping_prob=params.swap, seed=seed)
    study = new_study(genes, n_objectives, sampler, initial)
    return OptunaProposer(genes, unconditional(genes), study, params.population, 10, seed)
