"""The models of one tensor as points: inner products seen from an origin, and mixes of them.

Whatever is a linear combination of the models with one number a tensor (or a row) only needs their
inner products, which are computed once, in float64, from which on a candidate costs no pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoaim.kernel import BASE, ONE, Mix, Term, part, update, zero
from evoaim.methods import combination
from evoaim.statistics import CHUNK, TensorStatistics

HALF = np.float32(0.5)
NO_ANGLE = 1e-6  # sine of an angle below which inner products have no digits left to tell it


def gram(tensor: TensorStatistics, models: Sequence[str], origin: str | None) -> Any:
    """Inner products (n, n) float64 of models as seen from another; None: as whole tensors."""
    pairs = [[(a, b) for b in models] for a in models]

    def compute() -> Any:
        if origin is None:
            return np.array([[tensor.dot(a, b) for a, b in row] for row in pairs])
        return np.array([[_seen(tensor, origin, a, b) for a, b in row] for row in pairs])

    return tensor.once(("gram", tuple(models), origin), compute)


def directions(
    tensor: TensorStatistics, models: Sequence[str], origin: str | None
) -> tuple[list[float], list[list[float]]]:
    """Norms of models as seen from another, and their cosines; 0 where a norm is."""

    def compute() -> tuple[list[float], list[list[float]]]:
        products = gram(tensor, models, origin)
        norms = np.sqrt(products.diagonal().clip(0.0))
        sizes = np.outer(norms, norms)
        cosines = np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0)
        return norms.tolist(), cosines.clip(-1.0, 1.0).tolist()

    return tensor.once(("directions", tuple(models), origin), compute)


def row_gram(
    tensor: TensorStatistics, models: Sequence[str], origin: str | None, axis: int
) -> Tensor:
    """As `gram`, of the vectors along one axis: (n, n, *s) float64, s 1 along that axis."""
    return tensor.once(
        ("row gram", tuple(models), origin, axis),
        lambda: _row_gram(tensor, models, origin, axis),
    )


def placed(coefficients: Mapping[str, float], origin: str | None) -> Mix:
    """The mix for `x_o + sum_m c_m (x_m - x_o)`, o the origin; None: `sum_m c_m x_m`."""
    if origin is None:
        return combination(coefficients)
    shares = dict(coefficients)
    if origin != BASE:
        shares[origin] = shares.get(origin, 0.0) + 1.0 - sum(coefficients.values())
    return Mix(tuple(Term(m, c) for m, c in shares.items() if c != 0.0 and m != BASE))


def placed_rows(coefficients: Mapping[str, Tensor], origin: str | None) -> Mix:
    """As `placed`, with coefficients of rows or columns, broadcastable to the tensor."""
    shares = dict(coefficients)
    left = 1.0 - sum(coefficients.values(), torch.zeros(()))
    if origin is None:
        return Mix(_factors(shares), update=shifted, aux=((-left).float(),))
    if origin != BASE:
        shares[origin] = shares.get(origin, torch.zeros(())) + left
    return Mix(_factors(shares))


def ends(model: str, base: str) -> tuple[Term, ...]:
    """Terms for a rule that goes from the base to a model; see `way` and `start`."""
    return tuple(Term(m, w) for m, w in ((model, 1.0), (base, -1.0)) if m != BASE)


@part
def way(s: Any, w: Any, j: Any) -> Any:
    """Of the terms that `ends` gives: the model less the base."""
    y = s[0, j] * w[0]
    for i in range(1, len(w)):
        y = y + s[i, j] * w[i]
    return y


@part
def start(s: Any, w: Any, j: Any) -> Any:
    """Of the terms that `ends` gives: the base less x0."""
    y = zero(s[0, j])
    for i in range(len(w)):
        y = y - s[i, j] * ((w[i] - ONE) * HALF)
    return y


def arc(t: float, angle: float) -> tuple[float, float]:
    """Coefficients of slerp at t between two points at an angle; linear where it has no arc."""
    sine = math.sin(angle)
    if sine < NO_ANGLE:
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def arc_rows(t: float, angle: Tensor) -> tuple[Tensor, Tensor]:
    """As `arc`, for many angles at once."""
    sine = angle.sin()
    straight, sine = sine < NO_ANGLE, sine.clamp(min=NO_ANGLE)
    first, second = ((1 - t) * angle).sin() / sine, (t * angle).sin() / sine
    return torch.where(straight, 1 - t, first), torch.where(straight, t, second)


@update
def shifted(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """sum_i w_i s_i + a_0 x0"""
    y = a[0, j] * a[1, j]
    for i in range(len(w)):
        y = y + s[i, j] * w[i]
    return y


def _seen(tensor: TensorStatistics, origin: str, a: str, b: str) -> float:
    def dot(x: str, y: str) -> float:
        return 0.0 if BASE in (x, y) else tensor.delta_dot(x, y)

    return dot(a, b) - dot(a, origin) - dot(origin, b) + dot(origin, origin)


def _row_gram(
    tensor: TensorStatistics, models: Sequence[str], origin: str | None, axis: int
) -> Tensor:
    shape = tensor.shape
    n = len(models)
    kept = (n, n, *_without(shape, axis))
    if not shape:
        return torch.from_numpy(gram(tensor, models, origin)).view(kept)
    columns = math.prod(shape[1:])
    whole_rows = axis % len(shape) != 0  # the vectors do not cross rows of the first axis
    step = max(1, CHUNK // max(columns, 1))
    found = torch.zeros(kept, dtype=torch.float64)
    read = _reader(tensor, origin)
    for first in range(0, shape[0], step):
        stop = min(first + step, shape[0])
        x = [read(m, first * columns, stop * columns).view(-1, *shape[1:]) for m in models]
        rows = slice(first, stop) if whole_rows else slice(None)
        for i in range(n):
            for j in range(n):
                found[i, j, rows] += (x[i] * x[j]).sum(axis, keepdim=True)
    return found


def _reader(tensor: TensorStatistics, origin: str | None) -> Callable[[str, int, int], Tensor]:
    def delta(model: str, start: int, stop: int) -> Tensor:
        return tensor.chunk(model, start, stop).double()

    if origin is None:
        return lambda m, start, stop: tensor.load(m).reshape(-1)[start:stop].double()
    if origin == BASE:
        return delta
    return lambda m, start, stop: delta(m, start, stop) - delta(origin, start, stop)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    at = axis % max(len(shape), 1)
    return tuple(1 if i == at else n for i, n in enumerate(shape))


def _factors(shares: Mapping[str, Tensor]) -> tuple[Term, ...]:
    return tuple(Term(m, 1.0, factor=c.float()) for m, c in shares.items() if m != BASE)
