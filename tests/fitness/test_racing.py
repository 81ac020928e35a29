"""Racing: how often it drops what is as good, and what is worse, over random orders of a panel."""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from fitness.errors import FitnessError
from fitness.racing import (
    Rule,
    Stream,
    _quantile,
    boundary,
    documents,
    evidence,
    exact,
    is_beaten,
    paired_z,
)

Floats = NDArray[np.float64]
Kind = Literal["pocock", "strict"]
KINDS: tuple[Kind, ...] = ("pocock", "strict")
over_kinds = pytest.mark.parametrize("kind", KINDS)
ORDERS = {"pocock": 600, "strict": 250}  # of a simulated rate
# Of tied candidates, for alpha = 0.05: by chance a test of that level would drop more than 0.07 of
# 600 once in 80 times; the strict one, at 0.01, more than 0.05 of 250 once in a million.
COARSE = (0.1, 0.3, 0.7)
ALLOWED = {"pocock": 0.07, "strict": 0.05}


def zero_one(gap: float, size: int) -> Floats:
    """Differences of 0/1 scores with that mean; a quarter of the documents differ."""
    worse = round(size * (0.25 - gap) / 2)
    x = np.zeros(size)
    x[:worse] = -1
    x[worse : round(size * 0.25)] = 1
    return x


def blended(gap: float, size: int) -> Floats:
    """Accuracy and probability, half each; the probabilities follow the accuracies in part."""
    hard = zero_one(gap, size)
    soft = 0.3 * hard + np.random.default_rng(7).normal(0, 0.15, size)
    x = (hard + soft) / 2
    return np.asarray(x - x.mean() + gap)


MAKERS = {"0/1": zero_one, "blended": blended}


def dropped(panels: Sequence[Sequence[Sequence[Floats]]], rule: Rule, seed: int = 0) -> float:
    """How often a candidate is dropped before the end.

    `panels`: differences of the whole panel per front member, objective and task; a task's
    documents have the same order for all members and objectives.
    """
    rng = np.random.default_rng(seed)
    n_dropped = 0
    for _ in range(ORDERS[rule.kind]):
        sizes = [len(x) for x in panels[0][0]]
        orders = [rng.permutation(n) for n in sizes]
        for look in rule.looks:
            seen = [o[: documents((look,), len(o))[0]] for o in orders]
            streams = [
                [
                    Stream(tuple(x[s] for x, s in zip(tasks, seen, strict=True)), tuple(sizes))
                    for tasks in member
                ]
                for member in panels
            ]
            if is_beaten(streams, rule):
                n_dropped += 1
                break
    return n_dropped / ORDERS[rule.kind]


def test_boundary_is_the_measured_one_where_a_quarter_differs() -> None:
    """Of 0/1 scores; c is known to 0.03 from simulations on both sides."""
    for looks, size, c in (
        ((20, 40, 80, 120, 180), 200, 2.25),
        ((20, 40, 80, 150), 200, 2.18),
        ((20, 60, 150), 200, 2.07),
        ((20, 80), 100, 1.91),
    ):
        shares = tuple(n / size for n in looks)
        assert documents(shares, size) == looks
        assert -_quantile(shares, size, 0.05, 0.25) == pytest.approx(c, abs=0.06)
        assert c - 0.06 <= boundary(shares, size, 0.05) <= c + 0.15
        assert boundary(shares, size, 0.01) > boundary(shares, size, 0.05)


@over_kinds
@pytest.mark.parametrize("name", MAKERS)
def test_a_tied_candidate_is_rarely_dropped(kind: Kind, name: str) -> None:
    for size in (50, 250):
        assert dropped([[[MAKERS[name](0.0, size)]]], Rule(kind)) <= ALLOWED[kind]


@over_kinds
@pytest.mark.parametrize("name", MAKERS)
def test_a_candidate_far_behind_is_dropped(kind: Kind, name: str) -> None:
    least = {"pocock": 0.9, "strict": 0.6}[kind]
    assert dropped([[[MAKERS[name](-0.1, 250)]]], Rule(kind)) > least
    assert dropped([[[MAKERS[name](0.1, 250)]]], Rule(kind)) == 0


@over_kinds
def test_all_objectives_must_be_worse(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    tied, worse = zero_one(0.0, 250), zero_one(-0.15, 250)
    other = rng.permutation(tied)
    assert dropped([[[tied], [other]]], Rule(kind, looks=COARSE)) <= 0.02
    assert dropped([[[worse], [rng.permutation(-worse)]]], Rule(kind, looks=COARSE)) == 0
    assert dropped([[[worse], [other]]], Rule(kind, looks=COARSE)) <= ALLOWED[kind]
    assert dropped([[[worse], [rng.permutation(worse)]]], Rule(kind, looks=COARSE)) > 0.9


@over_kinds
def test_many_members_are_no_more_dangerous(kind: Kind) -> None:
    rng = np.random.default_rng(4)
    members = [[[rng.permutation(zero_one(0.0, 250))]] for _ in range(5)]
    assert dropped(members, Rule(kind, looks=COARSE)) <= ALLOWED[kind]


def unequal_tasks(gap: float) -> list[Floats]:
    """Three tasks of unequal sizes and merits, whose means have the mean `gap`."""
    return [zero_one(gap + g, n) for g, n in ((0.1, 40), (0.05, 80), (-0.15, 120))]


@over_kinds
def test_objectives_of_several_tasks(kind: Kind) -> None:
    for looks in (COARSE, (0.34, 0.67)):
        rule = Rule(kind, looks=looks)
        assert dropped([[unequal_tasks(0.0)]], rule) <= ALLOWED[kind]
        assert dropped([[unequal_tasks(-0.1)]], rule) > {"pocock": 0.85, "strict": 0.4}[kind]


@pytest.mark.parametrize("looks", [(0.4, 0.7), (0.5, 0.75, 1.0)])
def test_capital_is_fair_over_all_orders(looks: tuple[float, ...]) -> None:
    """Exactly: if the objectives' means tie, the capital is 1 at most on average."""
    rng = np.random.default_rng(5)
    for sizes in ((5,), (3, 4), (2, 3, 3)):
        panel = [rng.uniform(-0.4, 0.4, n) for n in sizes]
        shift = np.mean([x.mean() for x in panel])
        orders = [list(permutations(x - shift)) for x in panel]
        for look in looks:
            capitals = [
                evidence(
                    Stream(
                        tuple(np.array(x[: documents((look,), len(x))[0]]) for x in order), sizes
                    ),
                    looks,
                )
                for order in product(*orders)
            ]
            assert np.mean(capitals) <= 1 + 1e-9
            assert len(sizes) > 1 or look == 1.0 or np.mean(capitals) > 0.9


def test_bets_on_single_documents_are_the_published_ones() -> None:
    """Sampling without replacement: m = -S / (N - t + 1), capital times 1 - f (x - m) / (1 - m)."""
    size, seen = 60, 30
    x = np.random.default_rng(6).permutation(zero_one(-0.1, size))[:seen]
    capital, total = np.ones(5), 0.0
    for t, value in enumerate(x):
        if t == 2:  # no look is earlier: the first two are bet on at once
            capital = np.prod([1 - np.array([0.1, 0.2, 0.35, 0.5, 0.7]) * v for v in x[:2]], axis=0)
        if t >= 2:
            m = -total / (size - t)
            capital *= 1 - np.array([0.1, 0.2, 0.35, 0.5, 0.7]) / (1 - m) * (value - m)
        total += value
    looks = tuple((t + 1) / size for t in range(size))
    assert evidence(Stream((x,), (size,)), looks) == pytest.approx(capital.mean())


def test_no_z_value_before_six_pairs_differ() -> None:
    x = np.zeros(100)
    x[:5] = -1
    assert paired_z(Stream((x,), (200,))) == 0
    assert not is_beaten([[Stream((x,), (200,))]], Rule())
    nearly = np.where(x < 0, -1, -1e-3)  # all differ, but five decide
    assert paired_z(Stream((nearly,), (200,))) == 0
    x[5] = -1
    assert paired_z(Stream((x,), (200,))) < 0
    assert paired_z(Stream((x, np.zeros(1)), (200, 9))) == 0, "one document has no spread"


@over_kinds
def test_what_is_known_needs_no_test(kind: Kind) -> None:
    rule = Rule(kind)
    worse = Stream((-np.ones(40),), (200,))
    assert is_beaten([[exact(-3.0)]], rule)
    assert is_beaten([[exact(-3.0), worse]], rule)
    for known in (0.0, 3.0):
        assert not is_beaten([[exact(known)]], rule)
        assert not is_beaten([[exact(known), worse]], rule)
    assert [paired_z(exact(d)) for d in (-1e-9, 0.0, 2.0)] == [-np.inf, 0, np.inf]
    assert [evidence(exact(d), (0.5,)) for d in (-1e-9, 0.0, 2.0)] == [np.inf, 0, 0]
    certain = Stream((np.array([-1.0] * 6),), (10,))  # the other four cannot make up for it
    assert evidence(certain, (0.9,)) == np.inf
    cancel = Stream((np.array([0.1, 0.2, -0.3]),), (3,))  # a tie, though the sum is not quite 0
    assert not is_beaten([[cancel]], rule)
    assert not is_beaten([], rule)


@over_kinds
def test_tolerance_spares_what_is_worse_by_less(kind: Kind) -> None:
    panel = [[[zero_one(-0.1, 250)]]]
    assert dropped(panel, Rule(kind, tolerance=0.1)) <= ALLOWED[kind]
    assert not is_beaten([[exact(-0.1)]], Rule(kind, tolerance=0.1))
    assert is_beaten([[exact(-0.1)]], Rule(kind, tolerance=0.05))


@over_kinds
def test_the_order_of_members_and_objectives_does_not_matter(kind: Kind) -> None:
    rng = np.random.default_rng(8)
    decisions = set()
    for _ in range(40):
        gaps = rng.uniform(-0.4, 0.0, (3, 2))
        members = [
            [Stream((rng.permutation(zero_one(g, 120))[:40],), (120,)) for g in row] for row in gaps
        ]
        members[1].append(exact(-1.0))
        beaten = is_beaten(members, Rule(kind))
        for order in permutations(members):
            assert is_beaten([row[::-1] for row in order], Rule(kind)) == beaten
        decisions.add(beaten)
    assert decisions == {True, False}


def test_wrong_input_is_refused() -> None:
    with pytest.raises(FitnessError, match="at most 2 finite differences"):
        Stream((np.zeros(3),), (2,))
    with pytest.raises(FitnessError, match=r"in \[-1, 1\]"):
        Stream((np.array([0.0, 1.5]),), (3,))
    with pytest.raises(FitnessError, match="finite"):
        Stream((np.array([0.0, np.nan]),), (2,))
    with pytest.raises(FitnessError, match="alpha"):
        Rule(alpha=0.0)
    with pytest.raises(FitnessError, match="looks must increase"):
        Rule(looks=(0.5, 0.5))
    with pytest.raises(FitnessError, match="looks must increase"):
        Rule(looks=())
