"""CMA-ES starts where the best seed is, finishes what it began, starts again elsewhere."""

from collections.abc import Sequence

import numpy as np
import pytest
from test_optimizers import CUBE, MIXED, drawn, drive, losses_of

from evoaim.optimizers import Losses, cma_es
from evoaim.optimizers._mixed_cma import MixedDistribution
from search_spaces.genes import Choice, Gene, Genome, Real, Whole
from search_spaces.hygiene import count_genomes

PARAMS = cma_es.Params(population=8)


def distance(genomes: Sequence[Genome], to: Genome) -> np.float64:
    points = [[float(genome[g.name]) - float(to[g.name]) for g in CUBE] for genome in genomes]
    return np.abs(np.array(points)).mean()


@pytest.mark.parametrize("best", [0, 3])
def test_starts_at_the_best_initial_genome_that_is_feasible(best: int) -> None:
    """Of four corners; of the others one failed, one is infeasible, one has worse losses."""
    corners: list[Genome] = [
        {g.name: float(i % 2 == k % 2 if k < 2 else k == 2) for i, g in enumerate(CUBE)}
        for k in range(4)
    ]
    proposer = cma_es.build(CUBE, 1, cma_es.Params(population=8, sigma=0.05), 0, corners)
    assert proposer.ask() == corners
    losses = np.full((4, 1), 2.0)
    losses[best] = 1.0
    losses[(best + 1) % 4], losses[(best + 2) % 4] = np.nan, 0.0
    violations = np.zeros(4)
    violations[(best + 2) % 4] = 1.0
    proposer.tell(losses, violations)
    children = proposer.ask()
    nearest = min(range(4), key=lambda k: distance(children, corners[k]))
    assert nearest == best


def test_the_optimum_of_a_rotated_valley_is_found_to_the_grid() -> None:
    """Condition number 100; random search would need about 1e10 candidates for as much."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    scale = np.logspace(0, 1, 6)

    def losses(genomes: Sequence[Genome]) -> Losses:
        offsets = np.array([[float(g[gene.name]) for gene in CUBE] for g in genomes]) - 0.4
        squares: Losses = ((offsets @ rotation * scale) ** 2).sum(axis=1, keepdims=True)
        return squares

    asks = drive(cma_es.build(CUBE, 1, PARAMS, 0, ()), 75, losses)
    assert min(losses(ask).min() for ask in asks) < 1e-4


def test_a_converged_search_starts_again_elsewhere_with_more_samples() -> None:
    genes: tuple[Gene, ...] = (Real("x", 0.0, 1.0), Real("y", 0.0, 1.0))
    asks = drive(
        cma_es.build(genes, 1, PARAMS, 0, ()), 40, lambda genomes: losses_of(genes, genomes, 1)
    )
    spread = [float(np.std([float(genome["x"]) for genome in ask])) for ask in asks]
    closest = int(np.argmin(spread[:30]))
    assert spread[closest] < 2e-3
    assert max(spread[closest + 1 :]) > 0.05
    assert len(asks[0]) == 8
    assert max(map(len, asks)) >= 16


def test_numbers_and_choices_are_found_together() -> None:
    """Over 10 seeds it takes at most 200 candidates of the 6 * 4^2 * 1000^2."""
    genes: tuple[Gene, ...] = (
        Real("x", 0.0, 1.0, step=1e-3),
        Real("y", 1e-3, 1.0, log=True),
        Whole("n", 1, 6),
        Choice("a", tuple("pqrs")),
        Choice("b", (1, 2.5, "t", "none")),
    )

    def losses(genomes: Sequence[Genome]) -> Losses:
        target = {"n": 5, "a": "r", "b": "none"}
        wrong = [
            abs(int(g["n"]) - 5) / 5 + sum(g[name] != target[name] for name in "ab")
            for g in genomes
        ]
        numbers = [(float(g["x"]) - 0.8) ** 2 + (float(g["y"]) - 0.1) ** 2 for g in genomes]
        return np.array([wrong]).T + np.array([numbers]).T

    asks = drive(cma_es.build(genes, 1, PARAMS, 0, ()), 60, losses)
    assert min(losses(ask).min() for ask in asks if ask) < 1e-3


def test_samples_cover_every_value_and_never_lose_one_for_good() -> None:
    start = np.full(len(MIXED), 0.01)
    distribution = MixedDistribution(MIXED, 8, 0.2, start, 0)
    for _ in range(60):  # pulled to the start, as hard as it can be
        samples = [distribution.sample() for _ in range(distribution.population)]
        samples.sort(key=lambda pair: float(np.abs(pair[1] - start).sum()))
        distribution.update([sample for sample, _ in samples])
    points = np.array([distribution.sample()[1] for _ in range(400)])
    assert points.min() >= 0
    assert points.max() <= 1
    for column, gene in zip(points.T, MIXED, strict=True):
        if isinstance(gene, Choice):
            assert len({gene.decode(unit) for unit in column}) == len(gene.options)
        if isinstance(gene, Whole):
            assert len({gene.decode(unit) for unit in column}) > 1


def test_what_failed_altogether_teaches_nothing() -> None:
    proposer = cma_es.build(CUBE, 1, PARAMS, 0, drawn(CUBE, 0, 2))
    asks = drive(proposer, 20, lambda genomes: np.full((len(genomes), 1), np.nan))
    late = np.array([[float(g[gene.name]) for gene in CUBE] for ask in asks[10:] for g in ask])
    assert np.allclose(late.mean(axis=0), 0.5, atol=0.1)
    assert np.allclose(late.std(axis=0), 0.2, atol=0.05)


@pytest.mark.parametrize(
    "genes",
    [
        [Choice(f"c{i}", tuple("abcd")) for i in range(4)],
        [Whole(f"w{i}", 0, 5) for i in range(3)],
        [Real("x", 0.0, 1.0, step=0.01), Choice("m", ("a", "b"))],
    ],
)
def test_a_finite_space_is_asked_to_its_end(genes: list[Gene]) -> None:
    """Nearly: uniform draws meet the last few by chance."""
    total = count_genomes(genes, 10_000)
    assert total is not None
    proposer = cma_es.build(genes, 1, cma_es.Params(), 0, [])
    asked = 0
    while batch := proposer.ask():
        asked += len(batch)
        proposer.tell(np.array([[sum(map(ord, str(g)))] for g in batch], np.float64))
    assert 0.97 * total <= asked <= total
