"""Laws of every estimator; each one needs a row here."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from evoaim.registry import ESTIMATORS, SELECTORS
from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.estimators.sample_mean import mean
from fitness.samples import (
    Population,
    References,
    Sample,
    Selection,
    Setting,
    everything,
    no_references,
)
from fitness.types import Metric

N, DRAWS = 300, 300
METRIC = Metric("t", "acc", "maximize")


@dataclass(frozen=True)
class Row:
    """What the laws must know of an estimator."""

    unbiased: bool  # over draws of its own panel, up to O(1/n)
    draws: int = DRAWS  # panels that its laws are tried on


ROWS = {
    "sample_mean": Row(unbiased=True),
    "stratified": Row(unbiased=True),
    "greg": Row(unbiased=True),
    "p_irt": Row(unbiased=False, draws=20),
    "gp_irt": Row(unbiased=False, draws=20),
    "mp_irt": Row(unbiased=False, draws=20),
    "gmp_irt": Row(unbiased=False, draws=20),
}


def planted(models: int = 12) -> tuple[References, np.ndarray]:
    """Fully scored models, and one candidate's answers: a mixture of the first four."""
    rng = np.random.default_rng(0)
    ease, skill = rng.normal(0, 1.5, N), rng.normal(0.3, 0.6, models)
    special = rng.normal(0, 1.0, (models, N))
    logit = skill[:, None] + ease + special  # a model answers what it is surer of than not
    soft = 1 / (1 + np.exp(-logit))
    names = tuple(f"m{i}" for i in range(models))
    merge = logit[:4].mean(axis=0) + np.random.default_rng(100).normal(0, 0.2, N)
    return References(names, 4, (logit > 0).astype(float), soft), (merge > -0.4).astype(float)


REFERENCES, TRUTH = planted()


def fitted(name: str, selection: Selection, references: References = REFERENCES) -> Fitted:
    module: Any = ESTIMATORS[name]
    fit: Fitted = module.fit(Setting(METRIC, selection, references), module.Params())
    return fit


def answered(selection: Selection, truth: np.ndarray = TRUTH) -> Sample:
    own = truth[selection.positions]
    return Sample(selection, own, np.ones(len(own)))


def panel(name: str, n: int, seed: int = 0) -> Selection:
    module: Any = SELECTORS[ESTIMATORS[name].PANEL]
    population = Population(N, REFERENCES)
    found: Selection = module.select(population, n, module.Params(), np.random.default_rng(seed))
    return found


def test_every_estimator_has_a_row_and_every_row_an_estimator() -> None:
    assert set(ESTIMATORS) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_all_documents_give_the_exact_mean(name: str) -> None:
    selection = everything(N)
    got = fitted(name, selection)(answered(selection))
    assert got.value == pytest.approx(TRUTH.mean(), rel=1e-9)
    assert got.documents == N


@pytest.mark.parametrize("name", ROWS)
def test_estimates_are_near_and_their_intervals_cover(name: str) -> None:
    gaps, covered = [], []
    draws = ROWS[name].draws
    for seed in range(draws):
        selection = panel(name, 60, seed)
        got = fitted(name, selection)(answered(selection))
        gaps.append(got.value - TRUTH.mean())
        low, high = got.interval
        covered.append(low <= TRUTH.mean() <= high)
    gap = np.array(gaps)
    # six standard errors of the mean, and a bias of order 1/n
    if ROWS[name].unbiased:
        assert abs(gap.mean()) < 6 * gap.std(ddof=1) / np.sqrt(draws) + 0.005
    assert np.sqrt(np.square(gap).mean()) < 0.08  # a random sample's is 0.062
    # at least 0.9, less six standard errors of a share
    assert np.mean(covered) > 0.9 - 6 * np.sqrt(0.9 * 0.1 / draws)


@pytest.mark.parametrize("name", ROWS)
def test_the_order_of_documents_is_irrelevant(name: str) -> None:
    selection = panel(name, 40)
    order = np.random.default_rng(3).permutation(40)
    turned = replace(
        selection,
        positions=selection.positions[order],
        inclusion=selection.inclusion[order],
        stratum=selection.stratum[order],
    )
    one = fitted(name, selection)(answered(selection))
    other = fitted(name, turned)(answered(turned))
    assert (one.value, one.stderr) == pytest.approx((other.value, other.stderr), rel=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_a_part_of_the_panel_can_be_estimated_from(name: str) -> None:
    whole = panel(name, 60)
    estimate = fitted(name, whole)
    first = estimate(answered(whole.first(20)))
    assert first.documents == 20
    assert abs(first.value - TRUTH.mean()) < 0.35
    assert first.stderr >= 0


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("truth", [np.ones(N), np.zeros(N)], ids=["all right", "all wrong"])
def test_extreme_candidates_have_finite_estimates(name: str, truth: np.ndarray) -> None:
    selection = panel(name, 30)
    got = fitted(name, selection)(answered(selection, truth))
    assert np.isfinite([got.value, got.stderr]).all()
    assert got.stderr >= 0


@pytest.mark.parametrize("name", ROWS)
def test_declarations(name: str) -> None:
    module: Any = ESTIMATORS[name]
    assert module.PAPER
    assert module.PANEL in set(SELECTORS)
    assert module.RANK in {"value", "panel"}
    assert module.Params().documents  # every parameter has a default
    assert module.REFERENCES >= 0
    with pytest.raises(ValidationError):
        TypeAdapter(module.Params).validate_python({"documents": 1})


@pytest.mark.parametrize("name", ["sample_mean", "stratified", "greg"])
def test_weighted_metrics_are_ratios(name: str) -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(5, 40, N).astype(float)
    total = -words * rng.normal(2.0, 0.3, N)
    metric = Metric("t", "word_perplexity", "minimize", "exp_neg_mean")
    module: Any = ESTIMATORS[name]
    selection = everything(N)
    fit = module.fit(Setting(metric, selection, no_references(N)), module.Params())
    got = fit(Sample(selection, total, words))
    assert got.value == pytest.approx(np.exp(-total.sum() / words.sum()))


def test_regression_on_the_references_beats_the_weighted_mean() -> None:
    errors: dict[str, list[float]] = {"stratified": [], "greg": []}
    for seed in range(DRAWS):
        selection = panel("greg", 40, seed)
        for name, own in errors.items():
            own.append(fitted(name, selection)(answered(selection)).value - TRUTH.mean())
    # the merge answers nearly as its parents' mean does, so that they predict it well
    assert np.std(errors["greg"]) < 0.7 * np.std(errors["stratified"])


class TestSampleMean:
    """What is its own: the formulas."""

    @staticmethod
    def estimate(total: Any, weight: Any = None, metric: Metric = METRIC) -> Any:
        total = np.asarray(total, dtype=float)
        return mean(total, np.ones_like(total) if weight is None else np.asarray(weight), metric)

    def test_the_standard_error_is_that_of_a_mean(self) -> None:
        values = np.random.default_rng(0).random(37)
        got = self.estimate(values)
        assert got.value == pytest.approx(values.mean())
        assert got.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(37))

    def test_a_perplexity_is_a_ratio_with_a_delta_method_error(self) -> None:
        rng = np.random.default_rng(0)
        words = rng.integers(5, 40, 2000)
        total = -words * rng.normal(2.0, 0.3, 2000)
        metric = Metric("t", "word_perplexity", "minimize", "exp_neg_mean")
        got = self.estimate(total, words, metric)
        assert got.value == pytest.approx(np.exp(-total.sum() / words.sum()))
        bootstrap = []
        for _ in range(400):
            i = rng.integers(0, 2000, 2000)
            bootstrap.append(np.exp(-total[i].sum() / words[i].sum()))
        # a standard deviation from 400 draws has a relative error of 3.5%; six of them
        assert got.stderr == pytest.approx(np.std(bootstrap, ddof=1), rel=0.21)

    def test_bits_per_byte(self) -> None:
        metric = Metric("t", "bits_per_byte", "minimize", "bits")
        got = self.estimate([-8.0, -4.0, -3.0], [4, 2, 2], metric)
        assert got.value == pytest.approx(15 / 8 / np.log(2))

    def test_documents_without_a_value_do_not_count(self) -> None:
        with_gap = self.estimate([1, 0, 0, 1], [1, 1, 0, 1])
        assert with_gap == self.estimate([1, 0, 1])

    @pytest.mark.parametrize("n", [0, 1])
    def test_a_standard_error_needs_two_documents(self, n: int) -> None:
        with pytest.raises(
            FitnessError, match=f"at least 2 documents with a value expected, got {n}"
        ):
            self.estimate(np.ones(n))
