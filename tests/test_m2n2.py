"""M2N2: competition for documents, mates that complement, niches that persist, losses alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from test_optimizers import CUBE, drawn, losses_of

from evoaim.optimizers import Losses, m2n2
from evoaim.optimizers._niches import attraction, ladders, shares, solved, survivors
from evoaim.optimizers._niches import drawn as pick
from evoaim.optimizers.m2n2 import depth
from search_spaces.genes import Choice, Gene, Genome, Real

ALL = np.array([True, True, True])
BINARY = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])


def test_a_document_is_divided_among_those_who_solve_it() -> None:
    """By hand: the documents are solved by 2, 3, 1 and 0 members."""
    expected = [[1 / 2, 1 / 3, 0, 0], [1 / 2, 1 / 3, 0, 0], [0, 1 / 3, 1, 0]]
    assert np.allclose(shares(BINARY, 1.0), expected)
    assert np.array_equal(shares(BINARY, 0.0), BINARY)
    half = [[2**-0.5, 3**-0.5, 0, 0], [2**-0.5, 3**-0.5, 0, 0], [0, 3**-0.5, 1, 0]]
    assert np.allclose(shares(BINARY, 0.5), half)


def test_a_mate_is_attractive_by_what_the_other_lacks() -> None:
    share = shares(BINARY, 1.0)
    assert np.allclose(attraction(share, 0), [0, 0, 1])
    assert np.allclose(attraction(share, 2), [1 / 2, 1 / 2, 0])
    rng = np.random.default_rng(0)
    assert {pick(attraction(share, 0), rng) for _ in range(50)} == {2}
    assert {pick(np.zeros(3), rng) for _ in range(50)} == {0, 1, 2}, "nobody stands out: anybody"


def test_scores_of_any_unit_are_scaled_and_what_tells_nothing_is_dropped() -> None:
    scores = np.array(
        [[-3.0, 5.0, 0.2, np.nan], [-1.0, 5.0, np.nan, np.nan], [-2.0, 5, 0.6, np.nan]]
    )
    assert np.allclose(solved(scores, ALL), [[0, 0], [1, 0], [0.5, 1]])
    assert np.allclose(solved(scores, np.array([True, False, True])), [[0, 0], [0, 0], [1, 1]])
    assert solved(scores, np.array([False, False, False])).shape == (3, 0)


def test_a_specialist_outlives_competition_but_not_a_plain_ranking() -> None:
    """By hand: it has a document of its own; three documents are divided among four others."""
    table = np.vstack([np.tile([1.0, 1.0, 1.0, 0.0], (4, 1)), [0.0, 0.0, 0.0, 1.0]])
    assert survivors(table, np.zeros(5), 4, alpha=1.0).tolist() == [1, 2, 3, 4]
    assert survivors(table, np.zeros(5), 4, alpha=0.0).tolist() == [0, 1, 2, 3]


def test_the_infeasible_leave_first_the_farthest_before_the_others() -> None:
    table = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    violations = np.array([1.0, 2.0, 0.0, 0.0])
    assert survivors(table, violations, 3, 1.0).tolist() == [0, 2, 3]
    assert survivors(table, violations, 2, 1.0).tolist() == [2, 3]


def test_losses_alone_make_documents_that_better_members_solve() -> None:
    table = ladders(np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 4.0]]))
    assert table.sum(axis=1).tolist() == [4.0, 5.0, 4.0]
    assert table[:, [0, 2, 4]].tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


GROUPS: tuple[Gene, ...] = (
    *(Real(f"weight.{expert}.{cell}", 0.0, 1.0) for expert in "ab" for cell in ("g0", "g1.mlp")),
    Choice("mode.g0", ("x", "y")),
    Real("weight.a.rest", 0.0, 1.0),
)


def test_genes_are_as_deep_as_their_layer_group() -> None:
    assert [depth(gene) for gene in GROUPS] == [0, 1, 0, 1, 0, -1]
    assert depth(Real("density.g12.attn", 0, 1)) == 12
    assert depth(Real("omega.giant", 0, 1)) == depth(Real("omega", 0, 1)) == -1


def told(
    params: m2n2.Params,
    initial: Sequence[Genome],
    documents: NDArray[np.float64],
) -> m2n2.M2n2Proposer:
    """One that knows `initial`, all at the same losses, by their documents."""
    proposer = m2n2.M2n2Proposer(GROUPS, params, 0, initial)
    assert proposer.ask() == list(initial)
    proposer.tell(np.zeros((len(initial), 1)), None, documents)
    return proposer


def test_a_child_mixes_its_parents_one_way_above_the_split_and_the_other_below() -> None:
    low: Genome = {g.name: "x" if isinstance(g, Choice) else 0.0 for g in GROUPS}
    high: Genome = {g.name: "y" if isinstance(g, Choice) else 1.0 for g in GROUPS}
    params = m2n2.Params(population=2, batch=2, noise=0.0)
    proposer = told(params, [low, high], np.eye(2))
    order = sorted(GROUPS, key=depth)
    splits = set()
    for _ in range(30):
        for child in proposer.ask():
            numbers = [child[g.name] for g in order if isinstance(g, Real)]
            assert len(set(numbers)) <= 2
            assert numbers == sorted(numbers, key=numbers.index), "one block, then the other"
            if len(set(numbers)) == 2:
                assert np.isclose(sum(set(map(float, numbers))), 1.0, atol=1e-3)
            mode, number = child["mode.g0"], child["weight.b.g0"]
            splits.add((len(set(numbers)), numbers.count(numbers[0])))
            assert isinstance(number, float)
            assert mode in ("x", "y")
        proposer.tell(np.full((2, 1), np.nan))  # failed ones never enter
    assert len(splits) > 2


def test_mates_complement_each_other() -> None:
    """The first three are alike; the fourth alone solves the rest: every child is partly its."""
    alike: list[Genome] = [
        {g.name: "x" if isinstance(g, Choice) else x for g in GROUPS} for x in (0.0, 0.01, 0.02)
    ]
    other: Genome = {g.name: "y" if isinstance(g, Choice) else 1.0 for g in GROUPS}
    params = m2n2.Params(population=4, batch=4, noise=0.0)
    documents = np.array([[1.0, 1.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, 1.0, 1.0]])
    proposer = told(params, [*alike, other], documents)
    for _ in range(10):
        for child in proposer.ask():
            assert max(v for v in child.values() if isinstance(v, float)) > 0.02
        proposer.tell(np.full((4, 1), np.nan))


@pytest.mark.parametrize(("alpha", "kept"), [(1.0, True), (0.0, False)])
def test_niches_persist_in_a_search(alpha: float, kept: bool) -> None:
    """Ten documents are solved at high x0, one by x0 < 0.1 alone, where the search starts."""

    def documents(genomes: Sequence[Genome]) -> NDArray[np.float64]:
        x = np.array([float(genome["x0"]) for genome in genomes])
        return np.column_stack([x[:, None] > np.linspace(0.4, 0.95, 10), x < 0.1]).astype(float)

    initial: list[Genome] = [{**genome, "x0": 0.05} for genome in drawn(CUBE, 0, 4)]
    params = m2n2.Params(population=16, alpha=alpha, batch=4)
    proposer = m2n2.M2n2Proposer(CUBE, params, 0, initial)
    for _ in range(40):
        genomes = proposer.ask()
        proposer.tell(np.zeros((len(genomes), 1)), None, documents(genomes))
    specialists = [member for member in proposer._archive if member.point[0] < 0.1]
    assert bool(specialists) == kept


def test_documents_may_come_late_or_not_at_all() -> None:
    proposer = m2n2.build(CUBE, 2, m2n2.Params(population=6, batch=3), 0, ())
    best: list[float] = []
    for i in range(30):
        genomes = proposer.ask()
        losses: Losses = losses_of(CUBE, genomes, 2)
        given = (losses < 0.05).astype(float) if i % 2 else None
        proposer.tell(losses, None, given)
        best.append(float(losses.sum(axis=1).min()))
    assert min(best[20:]) < min(best[:5])
