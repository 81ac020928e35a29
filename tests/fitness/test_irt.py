"""Item response theory: fits on planted answers, and the estimators and selectors made of it."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.special import expit
from scipy.stats import spearmanr

from fitness import irt
from fitness.errors import FitnessError
from fitness.estimators import gmp_irt, gp_irt, mp_irt, p_irt
from fitness.samples import (
    Floats,
    Population,
    References,
    Sample,
    Selection,
    Setting,
    everything,
    no_references,
)
from fitness.selectors import anchors, irt_anchors
from fitness.types import Estimate, Metric

ACCURACY = Metric("t", "acc", "maximize")
ESTIMATORS = (p_irt, gp_irt, mp_irt, gmp_irt)
SELECTORS = (anchors, irt_anchors)


def planted(
    models: int, items: int, seed: int, dimensions: int = 1, spread: float = 1.0
) -> tuple[Floats, irt.Fit]:
    """Answers drawn from a 2PL model, and the model."""
    rng = np.random.default_rng(seed)
    slope = rng.normal(1.0, 0.3, (items, dimensions))
    slope[:, 1:] -= 1.0
    truth = irt.Fit(
        irt.Items(slope, rng.normal(0, 1.5, items)), rng.normal(0, spread, (models, dimensions))
    )
    right = irt.predict(truth.items, truth.ability)
    return (rng.random(right.shape) < right).astype(float), truth


def references(score: Floats, parents: int = 2) -> References:
    return References(tuple(f"m{i}" for i in range(len(score))), parents, score)


def uniform(n_documents: int, n: int, seed: int) -> Selection:
    rng = np.random.default_rng(seed)
    positions = rng.choice(n_documents, n, replace=False)
    return Selection(n_documents, positions, np.full(n, n / n_documents), np.zeros(n, dtype=int))


def estimates(
    estimator: ModuleType, selection: Selection, known: References, candidates: Floats
) -> list[Estimate]:
    fitted = estimator.fit(Setting(ACCURACY, selection, known), estimator.Params())
    seen = candidates[:, selection.positions]
    return [fitted(Sample(selection, row, np.ones(len(row)))) for row in seen]


@pytest.mark.parametrize("dimensions", [1, 3])
def test_the_gradient_is_that_of_the_loss(dimensions: int) -> None:
    rng = np.random.default_rng(1)
    shapes = (4, dimensions), (6, dimensions), (6,)
    known = (rng.random((4, 6)) < 0.8).astype(float)
    answer = known * rng.random((4, 6))

    def part(flat: Floats) -> Any:
        return irt._negative_log_posterior(flat, shapes, answer, known)

    for _ in range(5):
        flat = rng.normal(size=10 * dimensions + 6)
        assert check_grad(lambda x: part(x)[0], lambda x: part(x)[1], flat) < 1e-4


def test_the_order_of_abilities_is_recovered() -> None:
    answers, truth = planted(20, 500, 0)
    found = irt.fit(answers)
    assert spearmanr(found.ability[:, 0], truth.ability[:, 0])[0] > 0.9
    new, truth_of_new = planted(20, 500, 0)[0], truth.ability[:, 0]
    new[:, 60:] = np.nan
    assert spearmanr(irt.abilities(found.items, new)[:, 0], truth_of_new)[0] > 0.9


@pytest.mark.parametrize(
    "answers",
    [np.ones((5, 30)), np.zeros((5, 30)), np.eye(1, 30), np.ones((1, 30)), np.full((3, 1), 0.5)],
    ids=["all right", "all wrong", "one model", "one model, all right", "one item"],
)
@pytest.mark.parametrize("dimensions", [1, 3])
def test_fits_are_finite(answers: Floats, dimensions: int) -> None:
    found = irt.fit(answers, dimensions)
    for extreme in (np.ones_like(answers), np.zeros_like(answers)):
        ability = irt.abilities(found.items, extreme)
        weights = irt.mixture(found.items, found.ability, extreme)
        expected = irt.predict(found.items, ability)
        for values in (*vars(found.items).values(), found.ability, ability, weights, expected):
            assert np.isfinite(values).all()
        assert ((expected >= 0) & (expected <= 1)).all()


def test_missing_answers_say_nothing() -> None:
    answers, _ = planted(8, 60, 2)
    missing = np.random.default_rng(3).random(answers.shape) < 0.3
    without = irt.fit(np.where(missing, np.nan, answers))
    assert np.isfinite(without.ability).all()
    nobody = np.column_stack([answers, np.full(8, np.nan)])
    added = irt.fit(nobody).items
    assert irt.fit(answers).items.difficulty == pytest.approx(added.difficulty[:-1], abs=1e-3)
    seen = np.where(missing, np.nan, answers)
    few = irt.Items(without.items.slope[~missing[0]], without.items.difficulty[~missing[0]])
    alone = irt.abilities(few, answers[:1, ~missing[0]])
    assert irt.abilities(without.items, seen)[0] == pytest.approx(alone[0])


@pytest.mark.parametrize("dimensions", [1, 3])
def test_order_of_models_and_items_does_not_matter(dimensions: int) -> None:
    answers, _ = planted(12, 80, 4, dimensions)
    rng = np.random.default_rng(5)
    rows, columns = rng.permutation(12), rng.permutation(80)
    one, other = irt.fit(answers, dimensions), irt.fit(answers[rows][:, columns], dimensions)
    expected = irt.predict(one.items, one.ability)[rows][:, columns]
    assert irt.predict(other.items, other.ability) == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(irt.fit(answers, dimensions).ability, one.ability)


def test_new_abilities_are_where_the_posterior_is_highest() -> None:
    answers, truth = planted(30, 40, 6, dimensions=2)
    answers[:, 20:] *= 0.5  # graded
    found = irt.abilities(truth.items, answers)
    slack = answers - irt.predict(truth.items, found)
    assert slack @ truth.items.slope == pytest.approx(found, abs=1e-6)


def test_mixture_finds_the_planted_weights() -> None:
    rng = np.random.default_rng(7)
    items = irt.Items(rng.normal(1, 0.5, (4000, 3)), rng.normal(0, 1.5, 4000))
    endpoints = 1.5 * np.eye(3) + rng.normal(0, 0.1, (3, 3))
    weights = np.array([[0.7, 0.5, -0.2], [0.2, 0.2, 0.6]])
    right = expit(weights @ endpoints @ items.slope.T - items.difficulty)
    assert irt.mixture(items, endpoints, right) == pytest.approx(weights, abs=0.02)


def test_dimensions_are_added_only_where_they_predict() -> None:
    few, _ = planted(10, 60, 8, dimensions=3)
    assert irt.best_dimensions(few) == 1
    rng = np.random.default_rng(9)
    slope = np.where(np.arange(200)[:, None] < 100, [2.0, 0.0], [0.0, 2.0])  # two subjects
    items = irt.Items(rng.permutation(slope), rng.normal(0, 1, 200))
    right = irt.predict(items, rng.normal(size=(60, 2)))
    assert irt.best_dimensions((rng.random(right.shape) < right).astype(float)) > 1


@pytest.mark.parametrize("answers", [np.full((2, 3), 1.5), np.full((2, 3), np.nan)])
def test_answers_must_be_there_and_be_scores(answers: Floats) -> None:
    with pytest.raises(FitnessError, match=r"scores in \[0, 1\], got|at least one answer"):
        irt.fit(answers)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__[19:])
def test_levels_are_closer_than_the_panels_mean(estimator: ModuleType) -> None:
    answers, _ = planted(50, 400, 10, spread=0.3)  # accuracies as alike as in a family
    candidates, known = answers[20:], references(answers[:20])
    truth = candidates.mean(axis=1)
    fitted = estimator.fit(Setting(ACCURACY, uniform(400, 50, 0), known), estimator.Params())
    errors, means, covered = [], [], []
    for seed in range(4):
        selection = uniform(400, 50, seed)
        seen = candidates[:, selection.positions]
        found = [fitted(Sample(selection, row, np.ones(50))) for row in seen]
        bounds = np.array([f.interval for f in found])
        errors.append(np.abs([f.value for f in found] - truth))
        means.append(np.abs(seen.mean(axis=1) - truth))
        covered.append((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
    assert np.mean(errors) < 0.9 * np.mean(means)
    assert np.mean(covered) > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__[19:])
def test_all_documents_leave_nothing_to_estimate(estimator: ModuleType) -> None:
    answers, _ = planted(9, 40, 12)
    (found,) = estimates(estimator, everything(40), references(answers[:8]), answers[8:])
    assert found.value == pytest.approx(answers[8].mean())
    assert found.stderr == 0
    assert found.documents == 40


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__[19:])
def test_documents_without_a_value_are_left_out(estimator: ModuleType) -> None:
    answers, _ = planted(9, 40, 13)
    score = answers[:8].copy()
    score[:, 7] = np.nan  # of no model
    score[0, 20:] = np.nan
    fitted = estimator.fit(Setting(ACCURACY, everything(40), references(score)), estimator.Params())
    weight = (np.arange(40) % 2).astype(float)
    weight[7] = 0
    found = fitted(Sample(everything(40), answers[8] * weight, weight))
    assert found.documents == 19
    assert np.isfinite(found.value)


def test_promoted_models_correct_the_level_that_all_candidates_share() -> None:
    answers, _ = planted(60, 200, 15)
    selection = uniform(200, 40, 17)
    unseen = np.setdiff1d(np.arange(200), selection.positions)
    lost = np.random.default_rng(16).random((50, len(unseen))) < 0.5
    answers[10:, unseen] *= ~lost  # merges lose what parents did not, where the panel does not look
    truth = answers[18:].mean(axis=1)
    error = [
        np.mean([e.value for e in estimates(p_irt, selection, known, answers[18:])] - truth)
        for known in (references(answers[:18], 18), references(answers[:18], 10))
    ]
    assert error[0] > 0.05
    assert abs(error[1]) < 0.7 * error[0]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__[19:])
def test_what_cannot_be_estimated_is_refused(estimator: ModuleType) -> None:
    answers, _ = planted(8, 30, 18)
    selection = uniform(30, 10, 19)
    fit, params = estimator.fit, estimator.Params()
    perplexity = Metric("t", "perplexity", "minimize", "exp_neg_mean")
    with pytest.raises(FitnessError, match=r"t/perplexity.*not a mean.*sample_mean"):
        fit(Setting(perplexity, selection, references(answers)), params)
    with pytest.raises(FitnessError, match="got scores from 0 to 7"):
        fit(Setting(ACCURACY, selection, references(answers * 7)), params)
    with pytest.raises(FitnessError, match=r"at least 2 .* got 0"):
        fit(Setting(ACCURACY, selection, no_references(30)), params)
    fitted = fit(Setting(ACCURACY, selection, references(answers)), params)
    with pytest.raises(FitnessError, match="weighted"):
        fitted(Sample(selection, np.ones(10), np.full(10, 3.0)))
    with pytest.raises(FitnessError, match="got scores from -2 to -2"):
        fitted(Sample(selection, np.full(10, -2.0), np.ones(10)))
    with pytest.raises(FitnessError, match="at least 2 documents with a value expected, got 0"):
        fitted(Sample(selection, np.zeros(10), np.zeros(10)))


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: s.__name__[18:])
def test_anchors_stand_for_their_clusters(selector: ModuleType) -> None:
    answers, _ = planted(20, 300, 20)
    answers[:, 5] = np.nan
    population = Population(300, references(answers))

    def select(seed: int) -> Selection:
        chosen: Selection = selector.select(
            population, 30, selector.Params(), np.random.default_rng(seed)
        )
        return chosen

    chosen = select(0)
    assert not chosen.random
    assert len(set(chosen.positions)) == 30
    assert 5 not in chosen.positions
    assert (1 / chosen.inclusion).sum() == pytest.approx(299)
    assert np.array_equal(chosen.positions, select(0).positions)
    assert not np.array_equal(chosen.positions, select(1).positions)
    new = planted(40, 300, 20)[0][20:]
    weighted = new[:, chosen.positions] @ chosen.design_weight
    assert np.abs(weighted - np.delete(new, 5, axis=1).mean(axis=1)).mean() < 0.06


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: s.__name__[18:])
def test_anchors_need_documents_that_differ(selector: ModuleType) -> None:
    alike = np.tile([[0.0, 1.0], [1.0, 1.0]], 10)
    rng = np.random.default_rng(0)
    with pytest.raises(FitnessError, match="there are 2 among 20; use the selector 'disagreement'"):
        selector.select(Population(20, references(alike)), 5, selector.Params(), rng)
    with pytest.raises(FitnessError, match="use the selector"):
        selector.select(Population(20, no_references(20)), 5, selector.Params(), rng)
