"""Gaussian process: a smooth model of the losses, asked where it expects the most improvement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from optuna.samplers import GPSampler

from evoaim.optimizers import Proposer
from evoaim.optimizers._optuna import OptunaProposer, new_study, unconditional
from search_spaces.genes import Gene, Genome

PAPER = "Ament et al. 2023, arXiv:2310.20708; several objectives: Daulton et al. 2020"
OBJECTIVES = "many"


@dataclass(frozen=True)
class Params:
    """Random candidates after the initial ones, batch size."""

    startup: Annotated[int, Ge(1)] = 10
    batch: Annotated[int, Ge(1)] = 1


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    sampler = GPSampler(
        n_startup_trials=len(initial) + params.startup,
        warn_independent_sampling=False,
        seed=seed,
    )
    study = new_study(genes, n_objectives, sampler, initial)
    # One draw: the model has its optimum at the same place when it is asked again
    return OptunaProposer(genes, unconditional(genes), study, params.batch, 1, seed)
