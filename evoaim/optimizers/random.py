"""Random search: every gene drawn on its own; what any other optimizer must beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from optuna.samplers import RandomSampler

from evoaim.optimizers import Proposer
from evoaim.optimizers._optuna import OptunaProposer, new_study
from search_spaces.genes import Gene, Genome

PAPER = "Bergstra and Bengio 2012, jmlr.org/papers/v13/bergstra12a.html"
OBJECTIVES = "many"


@dataclass(frozen=True)
class Params:
    """How many candidates are asked at once."""

    batch: Annotated[int, Ge(1)] = 1


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    sampler = RandomSampler(seed=seed)
    study = new_study(genes, n_objectives, sampler, initial)
    return OptunaProposer(genes, genes, study, params.batch, 10, seed)
