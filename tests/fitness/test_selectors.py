"""Laws of every selector; each one needs a row here."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from evoaim.registry import SELECTORS
from fitness.errors import FitnessError
from fitness.samples import Population, References, Selection
from fitness.sampling import design_stderr, inclusion

N, DRAWS = 200, 400


@dataclass(frozen=True)
class Row:
    """What the laws must know of a selector."""

    random: bool = True  # draws with known probabilities
    params: dict[str, Any] = field(default_factory=dict)
    models: int = 4  # that it is tried with


ROWS = {
    "random": Row(),
    "stratified": Row(params={"by": "kind"}),
    "difficulty": Row(),
    "disagreement": Row(),
    "anchors": Row(random=False, models=40),
    "irt_anchors": Row(random=False, models=40),
}


def planted(models: int) -> Population:
    """Answers of models whose documents differ in difficulty, with probabilities."""
    rng = np.random.default_rng(0)
    ease, skill = rng.normal(0, 1.5, N), rng.normal(0.5, 0.7, models)
    soft = 1 / (1 + np.exp(-(skill[:, None] + ease)))
    score = (rng.random((models, N)) < soft).astype(float)
    labels = tuple("abc"[i % 3] for i in range(N))
    names = tuple(f"m{i}" for i in range(models))
    return Population(N, References(names, min(models, 4), score, soft), labels)


def select(name: str, n: int, seed: int = 0) -> Selection:
    module: Any = SELECTORS[name]
    params = TypeAdapter(module.Params).validate_python(ROWS[name].params)
    population = planted(ROWS[name].models)
    found: Selection = module.select(population, n, params, np.random.default_rng(seed))
    return found


def test_every_selector_has_a_row_and_every_row_a_selector() -> None:
    assert set(SELECTORS) == set(ROWS)


@pytest.mark.parametrize("n", [5, 40, N])
@pytest.mark.parametrize("name", ROWS)
def test_it_takes_as_many_distinct_documents_as_asked(name: str, n: int) -> None:
    if n == N and not ROWS[name].random:
        pytest.skip("clusters of all documents are the documents themselves")
    found = select(name, n)
    assert len(found) == len(set(found.positions.tolist())) == n
    assert found.positions.min() >= 0
    assert found.positions.max() < N
    assert ((found.inclusion > 0) & (found.inclusion <= 1)).all()
    assert found.design_weight.sum() == pytest.approx(1.0)
    assert found.random == ROWS[name].random


@pytest.mark.parametrize("name", ROWS)
def test_the_same_generator_takes_the_same_and_another_another(name: str) -> None:
    np.random.seed(0)  # noqa: NPY002
    one, other = select(name, 30), select(name, 30, seed=1)
    np.random.seed(1)  # noqa: NPY002
    again = select(name, 30)
    assert one.positions.tolist() == again.positions.tolist()
    assert one.positions.tolist() != other.positions.tolist()


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.random])
def test_documents_are_drawn_as_often_as_their_probability_says(name: str) -> None:
    drawn, claimed = np.zeros(N), np.zeros(N)
    for seed in range(DRAWS):
        found = select(name, 40, seed)
        drawn[found.positions] += 1
        claimed[found.positions] = found.inclusion
    seen = drawn > 0
    spread = np.sqrt(claimed * (1 - claimed) / DRAWS)
    # six standard deviations of a share, at 200 documents: false alarm rate 4e-7; and each
    # document that was never drawn had a chance of 1 in 1000 at least once in 400 at that share
    assert (np.abs(drawn / DRAWS - claimed)[seen] <= 6 * spread[seen] + 1e-9).all()
    assert claimed.sum() + 0.02 * (~seen).sum() >= 40 - 1e-6


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.random])
def test_weighted_means_are_unbiased_and_their_errors_cover(name: str) -> None:
    rng = np.random.default_rng(1)
    references = planted(4).references
    assert references.soft is not None
    truth = (rng.random(N) < references.soft.mean(axis=0)).astype(float)
    values, errors = [], []
    for seed in range(DRAWS):
        found = select(name, 40, seed)
        own = truth[found.positions]
        values.append(float(found.design_weight @ own))
        errors.append(design_stderr(found, own - values[-1]))
    gap = np.array(values) - truth.mean()
    # a ratio's bias is of order 1/n; six standard errors of the mean of 400 draws beyond that
    assert abs(gap.mean()) < 6 * gap.std() / np.sqrt(DRAWS) + 0.01
    covered = float((np.abs(gap) < 2.02 * np.array(errors)).mean())
    assert covered > 0.95 - 6 * np.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("name", ROWS)
def test_the_first_documents_are_a_selection_of_their_own(name: str) -> None:
    found = select(name, 40)
    first = found.first(10)
    assert first.positions.tolist() == found.positions[:10].tolist()
    assert first.inclusion == pytest.approx(found.inclusion[:10] / 4)


def test_probabilities_follow_sizes_and_never_exceed_one() -> None:
    size = np.array([100.0, 1.0, 1.0, 2.0])
    assert inclusion(size, 2) == pytest.approx([1.0, 0.25, 0.25, 0.5])
    assert inclusion(size, 4) == pytest.approx(np.ones(4))
    assert inclusion(np.ones(10), 3) == pytest.approx(np.full(10, 0.3))


def test_disagreement_prefers_what_divides_the_references_and_leaves_nothing_out() -> None:
    score = np.zeros((4, 100))
    score[:2, :20] = 1.0  # the only documents on which they differ
    module: Any = SELECTORS["disagreement"]
    population = Population(100, References(("a", "b", "c", "d"), 4, score))
    drawn = np.zeros(100)
    for seed in range(200):
        found = module.select(population, 10, module.Params(), np.random.default_rng(seed))
        drawn[found.positions] += 1
    assert drawn[:20].mean() / 200 == pytest.approx(0.42, abs=0.02)  # 8 / 20 + 2 / 100
    assert drawn[20:].mean() / 200 == pytest.approx(0.02, abs=0.005)


def test_references_that_agree_on_everything_make_a_random_sample() -> None:
    module: Any = SELECTORS["disagreement"]
    population = Population(50, References(("a", "b"), 2, np.ones((2, 50))))
    found = module.select(population, 5, module.Params(), np.random.default_rng(0))
    assert found.inclusion == pytest.approx(0.1)


def test_strata_are_never_empty() -> None:
    module: Any = SELECTORS["stratified"]
    labels = ("rare", *["common"] * 99)
    population = Population(100, planted(2).references, labels)
    params = module.Params("kind")
    found = module.select(population, 10, params, np.random.default_rng(0))
    assert 0 in found.positions
    with pytest.raises(FitnessError, match=r"1 documents for 2 strata .* empty.*rare"):
        module.select(population, 1, params, np.random.default_rng(0))


def test_a_lone_document_of_its_stratum_counts_with_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200)
    truth[:10] += 3.0
    labels = ("rare",) * 10 + ("common",) * 190
    module: Any = SELECTORS["stratified"]
    gaps, variances = [], []
    for seed in range(400):
        population = Population(200, planted(2).references, labels)
        found = module.select(population, 12, module.Params("kind"), np.random.default_rng(seed))
        own = truth[found.positions]
        gaps.append(float(found.design_weight @ own) - truth.mean())
        variances.append(design_stderr(found, own - float(found.design_weight @ own)) ** 2)
    # a variance of 400 draws is known to a fifth in three standard errors
    assert np.mean(variances) > 0.8 * np.var(gaps)
