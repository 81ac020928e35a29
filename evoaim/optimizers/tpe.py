"""TPE: samples where a density of the good candidates is high against one of the others."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler

from evoaim.optimizers import Proposer
from evoaim.optimizers._optuna import OptunaProposer, new_study
from search_spaces.genes import Gene, Genome

PAPER = (
    "Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127; several objectives: Ozaki et al. 2022"
)
OBJECTIVES = "many"


@dataclass(frozen=True)
class Params:
    """Random candidates after the initial ones, samples of the model per candidate, batch size."""

    startup: Annotated[int, Ge(1)] = 10
    samples: Annotated[int, Ge(1)] = 24
    batch: Annotated[int, Ge(1)] = 1


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
        sampler = TPESampler(
            n_startup_trials=len(initial) + params.startup,
            n_ei_candidates=params.samples,
            seed=seed,
            multivariate=True,
            group=any(gene.when is not None for gene in genes),
            constant_liar=params.batch > 1,  # spreads a batch out
        )
    study = new_study(genes, n_objectives, sampler, initial)
    return OptunaProposer(genes, genes, study, params.batch, 10, seed)
