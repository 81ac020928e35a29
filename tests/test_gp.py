"""The Gaussian process learns, and repeats itself; few candidates, since its model is slow."""

from collections.abc import Sequence

import numpy as np
import pytest
from test_optimizers import CUBE, losses_of

from evoaim.optimizers import Losses, Proposer, gp
from search_spaces.genes import Genome


def test_a_few_candidates_beat_many_random_ones() -> None:
    proposer = gp.build(CUBE, 1, gp.Params(startup=8), 0, ())
    best = np.inf
    for _ in range(20):
        genomes = proposer.ask()
        losses = losses_of(CUBE, genomes, 1)
        proposer.tell(losses)
        best = min(best, losses.min())
    rng = np.random.default_rng(0)
    blind = ((rng.random((200, len(CUBE))) - 0.5) ** 2).mean(axis=1)
    assert best < blind.min()


@pytest.mark.parametrize("n_objectives", [1, 2])
@pytest.mark.filterwarnings("error")
def test_the_model_repeats_itself_over_failed_and_infeasible_candidates(n_objectives: int) -> None:
    def drive(proposer: Proposer) -> list[Sequence[Genome]]:
        asks = []
        for _ in range(4):
            asks.append(proposer.ask())
            np.random.seed(len(asks))  # noqa: NPY002 (must not matter)
            losses: Losses = losses_of(CUBE, asks[-1], n_objectives)
            losses[0] = np.nan
            proposer.tell(losses, np.array([0.0, 1.0, 0.0, 0.0]))
        return asks

    params = gp.Params(startup=12, batch=4)
    first, second = (drive(gp.build(CUBE, n_objectives, params, 3, ())) for _ in range(2))
    assert first == second
    assert len({tuple(genome.items()) for ask in first for genome in ask}) == 16
