"""Item response theory for few models: maximum a posteriori (MAP) fits of a logistic model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from fitness.errors import FitnessError

Floats = NDArray[np.float64]

# Standard deviations of the priors: strong ones, as a handful of models cannot tell slopes apart.
# Slopes of more dimensions are wider because each carries less of an answer.
SLOPE_SD = ((1, 3, 5), (0.35, 0.6, 0.8))  # dimensions, sd; interpolated
SLOPE_MEAN, SLOPE_MEAN_SD = 1.0, 0.5
DIFFICULTY_SD, DIFFICULTY_MEAN_SD = 1.5, 3.0
MIN_SLOPE = 0.5  # mean slope below which abilities of new models would be held to the old ones'
MANY = 20  # models from which more than one dimension is tried


@dataclass(frozen=True, eq=False)
class Items:
    """P(right) = sigmoid(slope . ability - difficulty), a 2PL model with D dimensions.

    Args:
        slope: (N, D) discriminations; the first dimension is the general ability.
        difficulty: (N,).
    """

    slope: Floats
    difficulty: Floats


@dataclass(frozen=True, eq=False)
class Fit:
    """Items and the abilities of the models that they were fitted on.

    Args:
        items: N of them.
        ability: (M, D).
    """

    items: Items
    ability: Floats


def fit(answers: Floats, dimensions: int = 1) -> Fit:
    """MAP fit of items and abilities together, by L-BFGS; deterministic.

    Abilities have a standard normal prior, slopes and difficulties normal ones whose means are
    fitted as well. Graded scores count as fractions of a right and a wrong answer. Dimensions after
    the first start from the singular vectors of what one dimension leaves unexplained; their signs
    mean nothing.

    Few models against many items make a joint fit spread the abilities and flatten the slopes (a
    deviation of 3 for 8 models), so it is put on the scale on which the abilities have mean 0 and
    deviation 1 afterwards: new models then have the distribution of these as their prior. Models
    too much alike for that (slopes would fall below `MIN_SLOPE` on average) get a smaller one.

    Args:
        answers: (M, N) scores in [0, 1]; NaN where a model has none.
        dimensions: D.

    Raises:
        FitnessError: there is no answer, or one is outside [0, 1].
    """
    known, answer = _checked(answers)
    models, n_items = answer.shape
    ability = np.zeros((models, dimensions))
    slope = np.zeros((n_items, dimensions))
    if dimensions == 1:
        share = logit((answer.sum(1) + 0.5) / (known.sum(1) + 1))
        ability[:, 0] = (share - share.mean()) / (share.std() or 1.0)
        slope[:, 0] = SLOPE_MEAN
        difficulty = -logit((answer.sum(0) + 1) / (known.sum(0) + 2))
    else:
        general = fit(answers)
        ability[:, :1], slope[:, :1] = general.ability, general.items.slope
        difficulty = general.items.difficulty
        left = known * (answer - predict(general.items, general.ability))
        rows, _, columns = np.linalg.svd(left, full_matrices=False)
        more = min(dimensions, models, n_items) - 1
        ability[:, 1 : more + 1] = rows[:, :more] * np.sqrt(models)
        slope[:, 1 : more + 1] = columns[:more].T * np.sqrt(n_items) * 0.3
    shapes = ability.shape, slope.shape, difficulty.shape

    def loss(flat: Floats) -> tuple[float, Floats]:
        return _negative_log_posterior(flat, shapes, answer, known)

    start = np.concatenate([ability.ravel(), slope.ravel(), difficulty])
    options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 0.0, "gtol": 1e-6}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    ability, slope, difficulty = _unpacked(found.x, shapes)
    centre, scale = ability.mean(0), ability.std(0)
    scale[scale == 0] = 1.0
    scale[0] = max(scale[0], MIN_SLOPE / max(float(slope[:, 0].mean()), 0.1))
    return Fit(Items(slope * scale, difficulty - slope @ centre), (ability - centre) / scale)


def predict(items: Items, ability: Floats) -> Floats:
    """(M, N) probabilities of a right answer; `ability` is (M, D)."""
    return np.asarray(expit(ability @ items.slope.T - items.difficulty), dtype=np.float64)


def abilities(items: Items, answers: Floats) -> Floats:
    """(M, D) MAP abilities of new models from any of the items' answers.

    Args:
        items: as fitted.
        answers: (M, N) scores in [0, 1]; NaN where a model has none.

    Raises:
        FitnessError: there is no answer, or one is outside [0, 1].
    """
    return _newton(items.slope, items.difficulty, answers, np.zeros(items.slope.shape[1]), 1.0)


def mixture(items: Items, endpoints: Floats, answers: Floats) -> Floats:
    """(M, K) weights of the endpoints' abilities in those of models merged from them.

    The ability of a merge is assumed to be `weights @ endpoints` (Mencattini et al., MERGE^3,
    arXiv 2502.10436). The weights need not be positive nor sum to 1; unlike there, a normal prior
    around 1/K keeps them finite where few answers, or right ones only, would let them diverge. It
    is as wide as gives the mixture's abilities, like others, a deviation of about 1.

    Args:
        items: as fitted.
        endpoints: (K, D) abilities of the models that are merged.
        answers: (M, N) scores of the merges in [0, 1]; NaN where there is none.

    Raises:
        FitnessError: there is no answer, or one is outside [0, 1].
    """
    count, dimensions = endpoints.shape
    sd = 1 / max(float(np.linalg.norm(endpoints)) / math.sqrt(dimensions), 0.1)
    equal = np.full(count, 1 / count)
    return _newton(items.slope @ endpoints.T, items.difficulty, answers, equal, sd)


def best_dimensions(answers: Floats, choices: Sequence[int] = (1, 3)) -> int:
    """The number of dimensions that predicts best how models do on answers they were not fitted on.

    Every fifth model is held out; its ability is found on the items at even positions, and the
    error is the mean absolute difference of predicted and observed mean score on the odd ones
    (Polo et al., tinyBenchmarks, arXiv 2402.14992, as its notebooks do it). Fewer than `MANY`
    models cannot tell dimensions apart: the first of the choices then.

    Args:
        answers: (M, N) scores in [0, 1], NaN where a model has none.
        choices: dimensions to compare; of equally good ones the first.

    Raises:
        FitnessError: there is no answer, or one is outside [0, 1].
    """
    if len(answers) < MANY:
        return choices[0]
    held = np.arange(len(answers)) % 5 == 4
    even = np.arange(answers.shape[1]) % 2 == 0
    seen, rest = np.where(even, answers[held], np.nan), answers[held][:, ~even]
    errors = []
    for dimensions in choices:
        items = fit(answers[~held], dimensions).items
        expected = predict(items, abilities(items, seen))[:, ~even]
        gap = np.nanmean(np.where(np.isnan(rest), np.nan, expected) - rest, axis=1)
        errors.append(float(np.abs(gap).mean()))
    return choices[int(np.argmin(errors))]


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _checked(answers: Floats) -> tuple[Floats, Floats]:
    """(M, N) 1 where there is an answer, and the answers with 0 where there is none."""
    known = ~np.isnan(answers)
    if not known.any():
        raise FitnessError(
            "item response theory needs at least one answer of one model, got an array of shape "
            f"{answers.shape} without any"
        )
    low, high = float(np.nanmin(answers)), float(np.nanmax(answers))
    if low < 0 or high > 1:
        raise FitnessError(
            f"item response theory needs scores in [0, 1], got scores from {low:g} to {high:g}"
        )
    return known.astype(np.float64), np.nan_to_num(answers, nan=0.0)


def _unpacked(flat: Floats, shapes: Shapes) -> tuple[Floats, Floats, Floats]:
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    ability, slope, difficulty = np.split(flat, ends[:2])
    return ability.reshape(shapes[0]), slope.reshape(shapes[1]), difficulty


def _negative_log_posterior(
    flat: Floats, shapes: Shapes, answer: Floats, known: Floats
) -> tuple[float, Floats]:
    """Loss and gradient; the priors' means are at their optimum, so they add no derivative."""
    ability, slope, difficulty = _unpacked(flat, shapes)
    sd = float(np.interp(slope.shape[1], *SLOPE_SD))
    logits = ability @ slope.T - difficulty
    excess = known * expit(logits) - answer
    away = slope.copy()
    loss = float((known * np.logaddexp(0, logits) - answer * logits).sum())
    mean, penalty = _mean(slope[:, 0], sd, SLOPE_MEAN, SLOPE_MEAN_SD)
    away[:, 0] -= mean
    centre, second_penalty = _mean(difficulty, DIFFICULTY_SD, 0.0, DIFFICULTY_MEAN_SD)
    beyond = difficulty - centre
    loss += penalty + second_penalty + 0.5 * float(np.square(ability).sum())
    loss += 0.5 * float(np.square(away / sd).sum() + np.square(beyond / DIFFICULTY_SD).sum())
    gradient = (
        excess @ slope + ability,
        excess.T @ ability + away / sd**2,
        -excess.sum(0) + beyond / DIFFICULTY_SD**2,
    )
    return loss, np.concatenate([part.ravel() for part in gradient])


def _mean(values: Floats, sd: float, centre: float, centre_sd: float) -> tuple[float, float]:
    """The best mean of a normal prior that has a normal prior itself, and what that one costs."""
    precision, own = len(values) / sd**2, 1 / centre_sd**2
    mean = (float(values.sum()) / sd**2 + centre * own) / (precision + own)
    return mean, 0.5 * own * (mean - centre) ** 2


def _newton(
    design: Floats, difficulty: Floats, answers: Floats, centre: Floats, sd: float
) -> Floats:
    """(M, K) MAP coefficients of `design`, (N, K), with a normal prior: M logistic regressions."""
    used = ~np.isnan(answers).all(axis=0)
    known, answer = _checked(answers[:, used])
    design, difficulty = design[used], difficulty[used]
    n_items, size = design.shape
    outer = (design[:, :, None] * design[:, None, :]).reshape(n_items, -1)
    found = np.tile(centre, (len(answer), 1))
    for _ in range(100):
        right = expit(found @ design.T - difficulty)
        downhill = (answer - known * right) @ design - (found - centre) / sd**2
        curvature = (known * right * (1 - right)) @ outer
        hessian = curvature.reshape(-1, size, size) + np.eye(size) / sd**2
        step = np.linalg.solve(hessian, downhill[:, :, None])[:, :, 0]
        length = np.linalg.norm(step, axis=1, keepdims=True)
        found = found + step * np.minimum(1, 2 / np.maximum(length, 1e-300))
        if length.max() < 1e-9:
            break
    return found
