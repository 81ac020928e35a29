"""Pareto fronts against brute force: dominance, hypervolume, reference point, compromises."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evoaim.errors import ConfigError
from evoaim.front import Losses, hypervolume, knee, nondominated, reference_point, weighted

laws = settings(deadline=None, max_examples=80)
shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7).filter(lambda s: s[1] <= 4)
# few distinct values, so that ties and equal rows are common
values = st.integers(-3, 3).map(float)
tables = arrays(np.float64, shapes, elements=values)
gapped = arrays(np.float64, shapes, elements=values | st.sampled_from([np.nan, np.inf]))


def dominates(a: Losses, b: Losses) -> bool:
    return bool((a <= b).all() and (a < b).any())


@laws
@given(gapped)
def test_nondominated_is_what_no_row_dominates(losses: Losses) -> None:
    rows = [r for r in losses if np.isfinite(r).all()]
    front = {tuple(r) for r in rows if not any(dominates(s, r) for s in rows)}
    keep = nondominated(losses)
    kept = [tuple(r) for r in losses[keep]]
    assert set(kept) == front
    assert len(kept) == len(front)
    for i in np.flatnonzero(keep):
        assert not any(tuple(r) == tuple(losses[i]) for r in losses[:i])


def inclusion_exclusion(losses: Losses, reference: Losses) -> float:
    """The volume of a union of boxes, from all intersections."""
    total = 0.0
    for size in range(1, len(losses) + 1):
        for rows in combinations(losses, size):
            corner = np.max(rows, axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(reference - corner, 0.0)))
    return total


@laws
@given(tables, st.floats(-2, 5))
def test_hypervolume_is_the_volume_of_the_union(losses: Losses, corner: float) -> None:
    reference = np.full(losses.shape[1], corner)
    expected = inclusion_exclusion(losses, reference)
    assert hypervolume(losses, reference) == pytest.approx(expected, abs=1e-9)
    front = losses[nondominated(losses)]
    assert hypervolume(front, reference) == pytest.approx(expected, abs=1e-9)


def test_hypervolume_by_hand() -> None:
    losses = np.array([[1.0, 3.0], [2.0, 1.0], [np.nan, 0.0], [9.0, 9.0]])
    assert hypervolume(losses, np.array([4.0, 4.0])) == 3 + 6 - 2
    assert hypervolume(losses[:, :1], np.array([4.0])) == 3.0
    assert hypervolume(losses[2:], np.array([4.0, 4.0])) == 0.0
    assert hypervolume(np.zeros((0, 2)), np.array([4.0, 4.0])) == 0.0


@laws
@given(tables)
def test_every_parent_counts_at_the_reference_point(parents: Losses) -> None:
    reference = reference_point(parents)
    assert (reference > parents.max(axis=0)).all()
    assert all(hypervolume(p[None], reference) > 0 for p in parents)


def test_reference_point_by_hand() -> None:
    parents = np.array([[-0.4, 5.0], [-0.8, 5.0]])
    assert reference_point(parents) == pytest.approx([-0.4 + 0.04, 5.5])
    assert reference_point(np.zeros((1, 2))) == pytest.approx([1e-4, 1e-4])


@laws
@given(tables, st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.integers(-5, 5))
def test_compromises_do_not_depend_on_the_objectives_scale(
    losses: Losses, scales: list[float], shift: int
) -> None:
    front = losses[nondominated(losses)]
    n = front.shape[1]
    powers = 2.0 ** np.round(np.log2(scales[:n]))  # exact in floating point
    assert knee(front * powers + 8 * shift * powers) == knee(front)
    names = list("abcd"[:n])
    weights = dict(zip(names, powers.tolist(), strict=True))
    picked = weighted(front, names, weights)
    assert weighted(front * powers + 8 * shift * powers, names, weights) == picked
    assert weighted(front, names, {k: 3 * v for k, v in weights.items()}) == picked
    for i, name in enumerate(names):
        assert front[weighted(front, names, {name: 1.0}), i] == front[:, i].min()


def test_compromises_by_hand() -> None:
    front = np.array([[0.0, 10.0], [0.3, 2.0], [1.0, 0.0]])
    assert knee(front) == 1
    assert knee(front[:1]) == 0
    assert weighted(front, ["a", "b"], {"a": 1.0, "b": 1.0}) == 1
    assert weighted(front, ["a", "b"], {"a": 10.0, "b": 1.0}) == 0
    assert weighted(front, ["a", "b"], {"b": 1.0}) == 2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"maths": 1.0}, r"--pick: unknown objective 'maths'; did you mean 'math'\?"),
        ({}, r"weights must be 0 or more, one of them above 0"),
        ({"math": 0.0}, r"one of them above 0"),
        ({"math": -1.0, "code": 2.0}, r"weights must be 0 or more"),
        ({"math": float("nan")}, r"weights must be 0 or more"),
        ({"math": float("inf")}, r"weights must be 0 or more"),
    ],
)
def test_weights_that_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weighted(np.zeros((2, 2)), ["math", "code"], weights)
