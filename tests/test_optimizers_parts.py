"""What the optimizers are made of: directions, curvatures, survival."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.core.population import Population

from evoaim.optimizers import Losses
from evoaim.optimizers._directions import directions
from evoaim.optimizers._survival import FeasibleFirst
from evoaim.optimizers.age_moea2 import exponent
from evoaim.optimizers.age_moea2 import select as by_curvature
from evoaim.optimizers.moead import Decomposition, LocalMating
from evoaim.optimizers.rvea import AnglePenalizedDistance
from evoaim.optimizers.sms_emoa import select as by_hypervolume

FRONT = np.column_stack([np.linspace(0, 1, 9), 1 - np.linspace(0, 1, 9)])


@pytest.mark.parametrize("n", [2, 3, 8, 15, 16, 40])
@pytest.mark.parametrize("n_objectives", [2, 3, 5, 9])
def test_directions_are_distinct_and_on_the_simplex(n_objectives: int, n: int) -> None:
    found = directions(n_objectives, n)
    assert found.shape == (n, n_objectives)
    assert len(np.unique(found, axis=0)) == n
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    corners = (found.max(axis=1) == 1).sum()
    assert corners == min(n, n_objectives)


def test_directions_of_two_objectives_are_evenly_spaced() -> None:
    np.testing.assert_allclose(np.diff(directions(2, 16)[:, 0]), 1 / 15)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("n_objectives", [2, 3])
def test_the_exponent_of_a_front_is_found(n_objectives: int, p: float) -> None:
    points = directions(n_objectives, 28)
    front = points / (points**p).sum(axis=1, keepdims=True) ** (1 / p)
    assert exponent(front) == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize("select", [by_curvature, by_hypervolume])
def test_survivors_are_distinct_and_keep_the_ends(
    select: Callable[[Losses, int], NDArray[np.intp]],
) -> None:
    kept = set(select(np.vstack([FRONT + 0.5, FRONT]), 4).tolist())
    assert len(kept) == 4
    assert {9, 17} <= kept <= set(range(9, 18))


def test_vectors_keep_what_is_near_them_the_more_the_later() -> None:
    select = AnglePenalizedDistance(directions(2, 3), generations=10)
    kept = [select(FRONT, 3).tolist() for _ in range(10)]
    assert kept[0][0] == 4  # the nearest to the ideal point
    assert 0 not in kept[0]
    assert set(kept[-1]) == {0, 4, 8}


def population(losses: Losses, violations: list[float]) -> Population:
    return Population.new(F=losses, CV=np.array(violations)[:, None], X=np.zeros((len(losses), 1)))


def test_the_feasible_survive_then_the_least_infeasible() -> None:
    losses = np.array([[9.0, 9], [0, 0], [1, 1], [2, 2], [0, 0]])
    survivors = FeasibleFirst(by_hypervolume).do(
        None, people := population(losses, [0, 2, 1, 0, np.inf]), 4, None, np.random.default_rng(0)
    )
    assert [list(people).index(one) for one in survivors] == [3, 0, 2, 1]


def test_a_direction_goes_to_the_feasible_then_to_the_least_infeasible() -> None:
    losses = np.array([[0.0, 0], [0, 0], [0, 0], [9, 9], [5, 5]])
    violations = [np.inf, 2.0, 1.0, 0.0, 0.0]
    weights, near = directions(2, 3), np.ones((3, 3), dtype=bool)
    for n in range(1, 6):
        survival = Decomposition(weights, near, 3)
        people = population(losses[:n], violations[:n])
        held = survival.do(None, people, n, None, np.random.default_rng(0))
        assert all(one is people[n - 1] for one in held)


def test_neighbours_mate() -> None:
    people = population(np.zeros((4, 2)), [0.0] * 4)
    near = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=bool)
    parents = LocalMating(near)(None, people, 200, 2, np.random.default_rng(0), None)
    pairs = [sorted(list(people).index(one) for one in pair) for pair in parents]
    local = sum(pair in ([0, 1], [2, 3]) for pair in pairs)
    assert 160 < local < 200  # 0.9 of them, and a third of the others
