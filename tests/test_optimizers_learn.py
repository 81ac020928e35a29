"""Optimizers learn: they beat random search, avoid what fails and cross bad options."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from moocore import hypervolume
from numpy.typing import NDArray
from test_optimizers import CASES, CUBE, ROWS, build, drawn, drive, losses_of

from evoaim.optimizers import Losses, Violations
from search_spaces.genes import Choice, Genome

LEARNERS = [name for name, row in ROWS.items() if row.ahead is not None]


@cache
def quality(name: str, n_objectives: int, seed: int, budget: int) -> float:
    """Higher is better: hypervolume up to losses of 0.2, or minus the log of the best loss."""
    proposer = build(name, n_objectives, CUBE, seed)
    table = np.empty((0, n_objectives))
    while len(table) < budget:
        genomes = proposer.ask()
        losses = losses_of(CUBE, genomes, n_objectives)
        proposer.tell(losses)
        table = np.vstack([table, losses])
    if n_objectives == 1:
        return -float(np.log(table[:budget].min()))
    return float(hypervolume(table[:budget], ref=[0.2] * n_objectives))


@pytest.mark.parametrize(("name", "n_objectives"), [c for c in CASES if c[0] in LEARNERS])
def test_beats_random_search(name: str, n_objectives: int) -> None:
    """By a paired t-test over five seeds; an optimizer that learns nothing passes in 6% of cases.

    Over 20 seeds the mean gain was 2.4 to 4.1 of its standard deviations, so t is expected at 5.4
    or above and below 2, the false alarm, with 0.3% or less.
    """
    budget = ROWS[name].ahead or 0
    gains = np.array(
        [
            quality(name, n_objectives, seed, budget)
            - quality("random", n_objectives, seed, budget)
            for seed in range(5)
        ]
    )
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains))


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
    # Over 12 seeds the three fail in 4 to 10% (at most 21%); blind draws stay below a quarter of
    # 48 once in 2000 times.
    assert np.mean(fails(late)) < 1 / 4


@pytest.mark.parametrize(("name", "n_objectives"), [c for c in CASES if c[0] in LEARNERS])
@pytest.mark.parametrize("bad", ["violating", "raced out", "failed among infeasible"])
def test_the_bad_half_is_left(name: str, n_objectives: int, bad: str) -> None:
    """The half x0 < 1/2 has the best losses, but is infeasible, or fails where nothing is feasible.

    Blind draws reach 30 of the last 40 in the good half, the least that passes, once in 900 times.
    Over 6 seeds the three have 35 to 40, and at most 5 when nobody tells them of the violations.
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


@pytest.mark.parametrize("name", ["ga", "nsga2"])
def test_options_have_no_neighbours(name: str) -> None:
    """The last option is tried although a search that starts at the first finds all others bad.

    Over 12 seeds it took 201 candidates at most; small steps on the unit interval took 550.
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
