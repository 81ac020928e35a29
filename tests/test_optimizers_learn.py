"""Optimizers learn: they beat random search, avoid what fails and cross bad options."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from moocore import hypervolume
from numpy.typing import NDArray
from test_optimizers import CASES, CUBE, MIXED, ROWS, build, drawn, drive, losses_of

from evoaim.optimizers import Losses, Violations
from search_spaces.genes import Choice, Gene, Genome

LEARNERS = [name for name, row in ROWS.items() if row.ahead is not None]
SEEDS = range(10)


def away(gene: Gene, genome: Genome) -> float:
    """From the best value, 0.3 of a range or the first option; in [0, 0.7]."""
    if gene.name not in genome:
        return 0.35
    value = genome[gene.name]
    if isinstance(gene, Choice):
        return 0.5 * (value != gene.options[0])
    return abs(gene.encode(value) - 0.3)


def front_of(genes: Sequence[Gene], power: float) -> Callable[[Sequence[Genome]], Losses]:
    """Two losses after Zitzler, Deb and Thiele 2000; the last gene is the place on the front.

    With a power of 1/2 the front is convex, with 2 concave.
    """

    def losses(genomes: Sequence[Genome]) -> Losses:
        place = np.array([genes[-1].encode(genome[genes[-1].name]) for genome in genomes])
        depth = 1 + 4 * np.array([np.mean([away(g, x) for g in genes[:-1]]) for x in genomes])
        return np.column_stack([place, depth * (1 - (place / depth) ** power)])

    return losses


BRANCHED = (*MIXED, CUBE[0])
PROBLEMS: dict[str, tuple[Sequence[Gene], Callable[[Sequence[Genome]], Losses]]] = {
    "one objective": (CUBE, lambda genomes: losses_of(CUBE, genomes, 1)),
    "convex front": (CUBE, front_of(CUBE, 0.5)),
    "concave front, mixed genes": (BRANCHED, front_of(BRANCHED, 2)),
}
TASKS = [
    (name, problem)
    for name in LEARNERS
    for problem in PROBLEMS
    if (problem == "one objective") == (max(ROWS[name].objectives) == 1)
]


@cache
def quality(name: str, problem: str, seed: int, budget: int) -> float:
    """Higher is better: hypervolume, or minus the best loss."""
    genes, losses_at = PROBLEMS[problem]
    n_objectives = 1 if problem == "one objective" else 2
    table = np.empty((0, n_objectives))
    proposer = build(name, n_objectives, genes, seed)
    while len(table) < budget:
        losses = losses_at(proposer.ask())
        proposer.tell(losses)
        table = np.vstack([table, losses])
    if n_objectives == 1:
        return -float(table[:budget].min())
    return float(hypervolume(table[:budget], ref=[1.1, 2.5]))


@pytest.mark.parametrize(("name", "problem"), TASKS)
def test_beats_random_search(name: str, problem: str) -> None:
    """Ahead with 9 of 10 seeds or more, as what learns nothing is in 11 of 1024 cases, 0.011."""
    budget = ROWS[name].ahead or 0
    ahead = [
        quality(name, problem, seed, budget) > quality("random", problem, seed, budget)
        for seed in SEEDS
    ]
    assert sum(ahead) >= 9


@pytest.mark.parametrize("name", LEARNERS)
def test_failures_are_avoided(name: str) -> None:
    """One half of the space fails, and the best losses are at its border."""

    def fails(genomes: Sequence[Genome]) -> NDArray[np.bool_]:
        return np.array([genome["x0"] for genome in genomes]) > 0.5

    def losses(genomes: Sequence[Genome]) -> Losses:
        return np.where(fails(genomes)[:, None], np.nan, losses_of(CUBE, genomes, 1))

    n_asks = 96 // len(build(name, 1, CUBE).ask())
    asks = drive(build(name, 1, CUBE), n_asks, losses)
    late = [genome for ask in asks[n_asks // 2 :] for genome in ask]
    # Over 12 seeds pymoo's fail in 0.05 to 0.07 (at most 0.15), differential evolution in 0.12, a
    # swarm in 0.17 (once in 0.42); blind draws stay below a quarter of 48 once in 2000 times.
    assert np.mean(fails(late)) < 1 / 4


@pytest.mark.parametrize(("name", "n_objectives"), [c for c in CASES if c[0] in LEARNERS])
@pytest.mark.parametrize("bad", ["violating", "raced out", "failed among infeasible"])
def test_the_bad_half_is_left(name: str, n_objectives: int, bad: str) -> None:
    """The half x0 < 1/2 has the best losses, but is infeasible, or fails where nothing is feasible.

    Blind draws reach 30 of the last 40 in the good half, the least that passes, once in 900 times.
    Over 8 seeds almost all have 32 to 40, a swarm 26 with one of them; those that are not told of
    the violations have at most 5.
    """

    def depth(genomes: Sequence[Genome]) -> NDArray[np.float64]:
        return 0.5 - np.array([float(genome["x0"]) for genome in genomes])

    def losses(genomes: Sequence[Genome]) -> Losses:
        best = np.nan if bad == "failed among infeasible" else -1.0
        table = losses_of(CUBE[1:], genomes, n_objectives)
        return np.where(depth(genomes)[:, None] > 0, table + best, table)

    def violations(genomes: Sequence[Genome]) -> Violations:
        if bad == "violating":
            return depth(genomes)
        return np.where((depth(genomes) > 0) | (bad == "failed among infeasible"), 1.0, 0.0)

    n_asks = 120 // len(build(name, n_objectives, CUBE).ask())
    asks = drive(build(name, n_objectives, CUBE), n_asks, losses, violations)
    late = [genome for ask in asks[n_asks * 2 // 3 :] for genome in ask]
    assert len(late) == 40
    assert np.sum(depth(late) <= 0) >= 30


@pytest.mark.parametrize("name", ["de", "ga", "mixed_ga", "moead", "nsga2", "pso"])
def test_options_have_no_neighbours(name: str) -> None:
    """The last option is tried although a search that starts at the first finds all others bad.

    Over 12 seeds it took 224 candidates at most; small steps on the unit interval took 550.
    """
    genes = (Choice("option", tuple("abcdef")), *CUBE)
    first: list[Genome] = [{**genome, "option": "a"} for genome in drawn(genes, 0, 8)]
    proposer = build(name, 1, genes, initial=first)
    asked = 0
    options: set[object] = set()
    while "f" not in options:
        genomes = proposer.ask()
        options.update(genome["option"] for genome in genomes)
        bad = np.array([[float(genome["option"] != "a")] for genome in genomes])
        proposer.tell(losses_of(CUBE, genomes, 1) + bad)
        asked += len(genomes)
    assert asked < 400
