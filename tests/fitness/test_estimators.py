"""Laws of every estimator; each one needs a row here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from evoaim.registry import ESTIMATORS
from fitness.errors import FitnessError
from fitness.types import DocumentScores, Metric, Panel


@dataclass(frozen=True)
class Row:
    """What the laws must know of an estimator: parameters that take all, and some, documents."""

    everything: dict[str, Any]
    some: dict[str, Any]


ROWS = {"sample_mean": Row(everything={"documents": None}, some={"documents": 40})}
METRIC = Metric("t", "acc", "maximize")


def scores(total: Any, weight: Any = None) -> DocumentScores:
    total = np.asarray(total, dtype=float)
    weight = np.ones_like(total) if weight is None else np.asarray(weight, dtype=float)
    return DocumentScores(tuple(f"d{i}" for i in range(len(total))), total, weight)


def take(s: DocumentScores, positions: Any) -> DocumentScores:
    positions = list(positions)
    return DocumentScores(
        tuple(s.documents[p] for p in positions), s.total[positions], s.weight[positions]
    )


def planted(n: int = 400) -> DocumentScores:
    return scores(np.random.default_rng(0).random(n) < 0.6)


def panel_of(name: str, params: dict[str, Any], n: int, seed: int = 0) -> Panel:
    module: Any = ESTIMATORS[name]
    checked = TypeAdapter(module.Params).validate_python(params)
    panel: Panel = module.panel({"t": n}, checked, seed)
    return panel


def test_every_estimator_has_a_row_and_every_row_an_estimator() -> None:
    assert set(ESTIMATORS) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_all_documents_give_the_exact_mean(name: str) -> None:
    full = planted()
    panel = panel_of(name, ROWS[name].everything, 400)
    estimate = ESTIMATORS[name].estimate(take(full, panel.documents["t"]), METRIC)
    assert estimate.value == pytest.approx(full.total.mean(), rel=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_the_estimate_is_unbiased_and_its_error_covers(name: str) -> None:
    full, module = planted(), ESTIMATORS[name]
    truth, drawn = full.total.mean(), []
    for seed in range(300):
        panel = panel_of(name, ROWS[name].some, 400, seed)
        drawn.append(module.estimate(take(full, panel.documents["t"]), METRIC))
    values, errors = (np.array([getattr(e, a) for e in drawn]) for a in ("value", "stderr"))
    # six standard errors of the mean of 300 draws: false alarm rate 2e-9
    assert abs(values.mean() - truth) < 6 * values.std(ddof=1) / np.sqrt(300)
    # at least the nominal 95%, less six standard errors of a share of 300
    covered = np.abs(values - truth) < 1.96 * errors
    assert covered.mean() > 0.95 - 6 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize("name", ROWS)
def test_the_order_of_documents_is_irrelevant(name: str) -> None:
    full = scores(np.random.default_rng(1).random(50), np.random.default_rng(2).integers(1, 9, 50))
    metric = Metric("t", "word_perplexity", "minimize", "exp_neg_mean")
    one = ESTIMATORS[name].estimate(full, metric)
    other = ESTIMATORS[name].estimate(take(full, np.random.default_rng(3).permutation(50)), metric)
    assert (one.value, one.stderr) == pytest.approx((other.value, other.stderr), rel=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_the_panel_is_drawn_from_its_own_generator(name: str) -> None:
    np.random.seed(0)  # noqa: NPY002
    panel = panel_of(name, ROWS[name].some, 400)
    np.random.seed(1)  # noqa: NPY002
    assert panel_of(name, ROWS[name].some, 400) == panel
    assert panel_of(name, ROWS[name].some, 400, seed=1) != panel
    assert len(panel) == 40


@pytest.mark.parametrize("name", ROWS)
def test_more_documents_than_there_are(name: str) -> None:
    with pytest.raises(FitnessError, match="task 't': 40 documents asked for, 30 available"):
        panel_of(name, ROWS[name].some, 30)


@pytest.mark.parametrize("name", ROWS)
def test_declarations(name: str) -> None:
    module = ESTIMATORS[name]
    assert module.PAPER
    assert module.Params()  # every parameter has a default
    with pytest.raises(ValidationError):
        TypeAdapter(module.Params).validate_python({"documents": 1})


class TestSampleMean:
    """What is its own: the formulas."""

    estimate = staticmethod(ESTIMATORS["sample_mean"].estimate)

    def test_the_standard_error_is_that_of_a_mean(self) -> None:
        values = np.random.default_rng(0).random(37)
        got = self.estimate(scores(values), METRIC)
        assert got.value == pytest.approx(values.mean())
        assert got.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(37))

    def test_a_perplexity_is_a_ratio_with_a_delta_method_error(self) -> None:
        rng = np.random.default_rng(0)
        words = rng.integers(5, 40, 2000)
        total = -words * rng.normal(2.0, 0.3, 2000)
        metric = Metric("t", "word_perplexity", "minimize", "exp_neg_mean")
        got = self.estimate(scores(total, words), metric)
        assert got.value == pytest.approx(np.exp(-total.sum() / words.sum()))
        bootstrap = []
        for _ in range(400):
            i = rng.integers(0, 2000, 2000)
            bootstrap.append(np.exp(-total[i].sum() / words[i].sum()))
        # a standard deviation from 400 draws has a relative error of 3.5%; six of them
        assert got.stderr == pytest.approx(np.std(bootstrap, ddof=1), rel=0.21)

    def test_bits_per_byte(self) -> None:
        metric = Metric("t", "bits_per_byte", "minimize", "bits")
        got = self.estimate(scores([-8.0, -4.0, -3.0], [4, 2, 2]), metric)
        assert got.value == pytest.approx(15 / 8 / np.log(2))

    def test_documents_without_a_value_do_not_count(self) -> None:
        with_gap = self.estimate(scores([1, 0, 0, 1], [1, 1, 0, 1]), METRIC)
        assert with_gap == self.estimate(scores([1, 0, 1]), METRIC)

    @pytest.mark.parametrize("n", [0, 1])
    def test_a_standard_error_needs_two_documents(self, n: int) -> None:
        with pytest.raises(
            FitnessError, match=f"at least 2 documents with a value expected, got {n}"
        ):
            self.estimate(scores(np.ones(n)), METRIC)
