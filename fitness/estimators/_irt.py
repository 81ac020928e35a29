"""What the estimators by item response theory share: the fit, its measured error, the estimate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fitness import irt
from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.samples import Floats, Ints, References, Sample, Setting
from fitness.types import Estimate, Metric

FOLDS = 5
DOUBT = 2  # models without error that are added to the promoted ones when their error is averaged


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run; null takes all."""

    documents: Annotated[int, Ge(2)] | None = 60


@dataclass(frozen=True, eq=False)
class Family:
    """Models of the documents, fitted with all references and without some of them.

    Args:
        columns: (C,) the documents, of all N, that the task reports a value for.
        score: (M, C) of the references there; NaN where a reference has none.
        parents: how many of the first references are base and experts.
        whole: fitted on all of them.
        folds: the references that were left out, and the fit on the others with its parents.
    """

    columns: Ints
    score: Floats
    parents: int
    whole: irt.Fit
    folds: tuple[tuple[Ints, irt.Fit, int], ...]


@dataclass(frozen=True, eq=False)
class Validation:
    """How well the panel of a candidate would do on the references.

    Args:
        error: (M,) of the model-based level of each, fitted without it.
        spread: mean over the references of the variance of their documents' scores.
        effective: documents that the panel is worth when its mean is weighted by the design.
    """

    error: Floats
    spread: float
    effective: float


Predictor = Callable[[irt.Fit, int, Floats], Floats]
"""From a fit, its number of parents (first rows) and (R, C) scores of other models, NaN where a
document was not run, to (R, C) probabilities."""

Share = Callable[[Validation], float]
"""Weight, in [0, 1], of the panel's design-weighted mean against the model-based level."""


def by_ability(fit: irt.Fit, parents: int, seen: Floats) -> Floats:  # noqa: ARG001
    """Predictor: every model has its own ability."""
    return irt.predict(fit.items, irt.abilities(fit.items, seen))


def by_mixture(fit: irt.Fit, parents: int, seen: Floats) -> Floats:
    """Predictor: a model's ability is a mixture of the parents' (arXiv 2502.10436)."""
    endpoints = fit.ability[:parents]
    return irt.predict(fit.items, irt.mixture(fit.items, endpoints, seen) @ endpoints)


def fitted(setting: Setting, predictor: Predictor, share: Share) -> Fitted:
    """The estimator `share` x panel mean + (1 - `share`) x model-based level, corrected.

    The model-based level is the mean of the scores where a document was run and of the predicted
    probability elsewhere. From the estimate is subtracted the mean error on the references after
    the parents, each of them estimated from the panel's documents by items fitted without it, and
    shrunk as if `DOUBT` more models had no error: with items that had seen them, or without the
    shrinkage, few promoted models did more harm than good.

    The standard error is that of the difference estimator with the same predictions in Hajek's
    (1964) approximation. It does not trust the model, and is wider than needed rather than too
    narrow. Of a panel that was not drawn at random it is no probability statement; there the root
    mean square of the errors above is taken where that is larger.

    Raises:
        FitnessError: the metric is no mean of scores in [0, 1], or there are fewer than 2
            references.
    """
    metric = setting.metric
    family = _family(metric, setting.references)
    truth = np.nanmean(family.score, axis=1)
    spread = float(np.nanvar(family.score, axis=1).mean())

    @lru_cache(32)  # candidates share a panel
    def validated(where: tuple[int, ...]) -> tuple[Floats, Floats]:
        theirs = np.full(family.score.shape, np.nan)
        theirs[:, where] = family.score[:, where]
        level = np.empty(len(theirs))
        for left_out, fit, parents in family.folds:
            seen = theirs[left_out]
            level[left_out] = _filled(seen, predictor(fit, parents, seen))
        return theirs, level

    def estimate(sample: Sample) -> Estimate:
        where, score, inclusion = _run(metric, family, sample)
        own = np.full((1, len(family.columns)), np.nan)
        own[0, where] = score
        expected = predictor(family.whole, family.parents, own)
        theirs, validation = validated(tuple(where.tolist()))

        weight = np.zeros(len(family.columns))
        weight[where] = 1 / inclusion
        effective = float(weight.sum() ** 2 / np.square(weight).sum())
        error = validation - truth
        blend = share(Validation(error, spread, effective))
        error = blend * (_weighted(theirs, weight) - truth) + (1 - blend) * error
        beyond = error[family.parents :]
        offset = float(beyond.sum()) / (len(beyond) + DOUBT)

        mean = _weighted(own, weight)
        level = float((blend * mean + (1 - blend) * _filled(own, expected))[0]) - offset
        residual = score - blend * mean - (1 - blend) * expected[0, where]
        stderr = _difference_stderr(residual, inclusion) / len(family.columns)
        if not sample.selection.random:
            stderr = max(stderr, math.sqrt(float(np.square(error - offset).mean())))
        return Estimate(min(max(level, 0.0), 1.0), stderr, documents=len(where))

    return estimate


def _family(metric: Metric, references: References) -> Family:
    if metric.link != "mean":
        raise FitnessError(
            f"metric {metric.key}: estimators by item response theory need a mean of scores in "
            f"[0, 1], this one is not a mean over documents; use the estimator 'sample_mean'"
        )
    if len(references) < 2:
        raise FitnessError(
            f"metric {metric.key}: item response theory needs at least 2 fully scored models, got "
            f"{len(references)}; use the estimator 'sample_mean'"
        )
    columns = np.flatnonzero(~np.isnan(references.score).all(axis=0))
    score = references.score[:, columns]
    _in_unit_interval(metric, score)
    row = np.arange(len(score))
    dimensions = irt.best_dimensions(score)
    folds = []
    for fold in range(min(FOLDS, len(score))):
        kept = row % min(FOLDS, len(score)) != fold
        parents = int((row[kept] < references.parents).sum())
        folds.append((row[~kept], irt.fit(score[kept], dimensions), parents))
    return Family(columns, score, references.parents, irt.fit(score, dimensions), tuple(folds))


def _run(metric: Metric, family: Family, sample: Sample) -> tuple[Ints, Floats, Floats]:
    """Columns of the documents that were run and have a value, their scores, their inclusion."""
    if not np.isin(sample.weight, (0.0, 1.0)).all():
        raise FitnessError(
            f"metric {metric.key}: its documents are weighted (by words or bytes), and item "
            "response theory needs a plain mean; use the estimator 'sample_mean'"
        )
    known = (sample.weight > 0) & np.isin(sample.selection.positions, family.columns)
    if known.sum() < 2:
        raise FitnessError(
            f"metric {metric.key}: at least 2 documents with a value expected, got {known.sum()}"
        )
    score = sample.score[known]
    _in_unit_interval(metric, score)
    where = np.searchsorted(family.columns, sample.selection.positions[known])
    return where, score, sample.selection.inclusion[known]


def _in_unit_interval(metric: Metric, score: Floats) -> None:
    low, high = float(np.nanmin(score)), float(np.nanmax(score))
    if low < 0 or high > 1:
        raise FitnessError(
            f"metric {metric.key}: item response theory needs scores in [0, 1], got scores from "
            f"{low:g} to {high:g}; use the estimator 'sample_mean'"
        )


def _filled(seen: Floats, expected: Floats) -> Floats:
    """(R,) means over all documents: what was scored, and the probability of the rest."""
    return np.asarray(np.where(np.isnan(seen), expected, seen).mean(axis=1), dtype=np.float64)


def _weighted(seen: Floats, weight: Floats) -> Floats:
    """(R,) means of what was scored, weighted by the design."""
    known = weight * ~np.isnan(seen)
    return np.asarray((known * np.nan_to_num(seen)).sum(1) / known.sum(1), dtype=np.float64)


def _difference_stderr(residual: Floats, inclusion: Floats) -> float:
    """Standard error of the estimated total of residuals over all documents (Hajek 1964)."""
    total, free = residual / inclusion, 1 - inclusion
    if not free.any():
        return 0.0
    centre = float((free * total).sum() / free.sum())
    n = len(total)
    return math.sqrt(n / (n - 1) * float((free * np.square(total - centre)).sum()))
