"""PCB-Merging: in every element experts compete; only each one's highest scores take part.

    z_i = minmax(|d_i|), clipped to its quantiles `clip` and 1 - clip;  c_i = sgn(d_i) clipped |d_i|
    b_i = exp(N z_i^2) tanh(d_i sum_j d_j)                              N experts
    f_i = minmax(max(b_i, quantile(b_i, 1 - ratio)))
    y   = x0 + sum_i w_i c_i f_i / max(sum_i f_i, 1e-12)

minmax maps to [0, 1]; it is 0 where all are equal, as for an expert that equals the base, where the
official code divides by zero. That code's stand-alone variant is meant, whose quantiles are those
of the whole model (`scope: model`); a lone expert loses its smallest and clips its largest deltas.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from evoaim.kernel import ONE, ZERO, Mix, Term, part, update, where, zero
from evoaim.methods import Inputs
from evoaim.methods._shared import weight
from evoaim.statistics import TensorStatistics
from evoaim.whole import Whole, magnitudes
from search_spaces.parameters import Parameter

PAPER = "arXiv:2410.02396"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": weight(1.2),
    "ratio": Parameter(
        "fraction of an expert's elements, those of highest score, that take part",
        default=0.1,
        published=0.05,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.02, 0.5),
        log=True,
    ),
    "clip": Parameter(
        "fraction of a delta's elements that is clipped at either end of their magnitudes",
        default=1e-4,
        published=1e-4,
        identity=0.0,
        legal=(0.0, 0.5),
    ),
    "scope": Parameter(
        "among what quantiles are taken: model (the paper) or tensor",
        default="model",
        published="model",
        identity="model",
        choices=("model", "tensor"),
    ),
}
_EXP = tuple(np.float32(1 / math.factorial(k) / 4**k) for k in range(7))  # of exp(t / 4), t <= 1
# tanh(x) = x P(x^2) / Q(x^2) to 3e-7 for |x| <= 9, where it is 1 in float32
_P = tuple(np.float32(c) for c in (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
    -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16,
))  # fmt: skip
_Q = tuple(np.float32(c) for c in (
    4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06,
))  # fmt: skip
_FAR = np.float32(9)
_LEAST = np.float32(1e-12)


@dataclass(frozen=True)
class Range:
    """Both ends of numbers; those that are all equal have no range."""

    low: float
    high: float

    @property
    def scalars(self) -> tuple[float, float]:
        """(low, 1 / (high - low) or 0)."""
        return self.low, 1 / (self.high - self.low) if self.high > self.low else 0.0


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, also those of weight 0: they compete."""
    ratio, clip = (float(inputs.shared[n]) for n in ("ratio", "clip"))
    whole = tensor.whole
    if inputs.shared["scope"] == "tensor":
        whole = tensor.once("alone", lambda: Whole(lambda: {tensor.name: tensor}))
    if ratio <= 0.0:
        return Mix(())
    sizes = [_sizes(whole, e, clip) for e in inputs.experts]
    scores = [_scores(whole, i, inputs.experts, (clip, ratio, sizes[i])) for i in range(len(sizes))]
    numbers = [
        x for z, b in zip(sizes, scores, strict=True) for x in (z.high, *z.scalars, *b.scalars)
    ]
    weights = zip(inputs.experts, inputs.weights(), strict=True)
    return Mix(tuple(Term(e, w) for e, w in weights), update=balanced, scalars=tuple(numbers))


def _sizes(whole: Whole, expert: str, clip: float) -> Range:
    """What an expert's |d| are clipped to."""
    n = whole.size
    kept = [n - int(n * clip), n - max(0, int(n * (1 - clip) - 1))]
    found = whole.select(("sizes", expert), (kept[0], kept[1]), partial(magnitudes, expert))
    return Range(found.at(0).keep.threshold, found.at(1).keep.threshold)


def _scores(
    whole: Whole, i: int, experts: tuple[str, ...], given: tuple[float, float, Range]
) -> Range:
    """The quantile and the largest of an expert's scores b."""
    clip, ratio, sizes = given
    n, key = whole.size, ("pcb", experts, i, clip)
    last = n - int(n * (1 - ratio))  # how many scores are at least the quantile

    def top(sign: int, count: int) -> float:
        values = partial(_score_chunk, experts, i, (sizes, sign))
        return whole.top((key, sign), count, values).keep.threshold

    low = top(1, last) or -top(-1, n - last + 1)
    return Range(low, top(1, 1) or -top(-1, n))


def _score_chunk(
    experts: tuple[str, ...],
    i: int,
    given: tuple[Range, int],
    tensor: TensorStatistics,
    start: int,
    stop: int,
) -> Any:
    """max(sign * b_i, 0) of one stretch of a tensor: (n,) float32."""
    sizes, sign = given
    deltas = np.stack([tensor.chunk(e, start, stop).numpy() for e in experts])
    numbers = np.array([sizes.high, *sizes.scalars, sign], np.float32)
    out = np.empty(deltas.shape[1], np.float32)
    _write_scores(deltas, i, numbers, out)
    return out


@njit(nogil=True, cache=True)
def _write_scores(deltas: Any, i: int, numbers: Any, out: Any) -> None:
    high, low, scale, sign = numbers
    for j in range(out.size):
        together = deltas[0, j]
        for k in range(1, len(deltas)):
            together = together + deltas[k, j]
        b = _score(deltas[i, j], together, high, low, scale, deltas) * sign
        out[j] = where(b > ZERO, b, ZERO)


@update
def balanced(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """Mean of the w_i c_i, weighted by f_i; p: (high, low, scale) of |d_i|, (low, scale) of b_i."""
    together = s[0, j]
    for i in range(1, len(w)):
        together = together + s[i, j]
    y, shares = zero(together), zero(together)
    for i in range(len(w)):
        d, high, low = s[i, j], p[5 * i], p[5 * i + 1]
        b = _score(d, together, high, low, p[5 * i + 2], w)
        f = (b - p[5 * i + 3]) * p[5 * i + 4]
        f = where(f > ZERO, f, ZERO)
        size = _clipped(d, high, low)
        c = where(d > ZERO, size, where(d < ZERO, -size, ZERO))
        y = y + c * f * w[i]
        shares = shares + f
    divisor = where(shares > _LEAST, shares, _LEAST)
    return y / where(divisor == ZERO, ONE, divisor)


@part
def _clipped(d: Any, high: Any, low: Any) -> Any:
    """|d| in [low, high]."""
    size = abs(d)
    size = where(size < low, low, size)
    return where(size > high, high, size)


@part
def _score(d: Any, together: Any, high: Any, low: Any, scale: Any, experts: Any) -> Any:
    """exp(n z^2) tanh(d * together), z = (clipped |d| - low) * scale, n = len(experts).

    To about n * 2e-7. (n itself would not do: its loop must have a length known in advance.)
    """
    z = (_clipped(d, high, low) - low) * scale
    t = z * z
    e = t * _EXP[6] + _EXP[5]
    e = e * t + _EXP[4]
    e = e * t + _EXP[3]
    e = e * t + _EXP[2]
    e = e * t + _EXP[1]
    e = e * t + _EXP[0]
    e = e * e
    e = e * e
    power = e
    for _ in range(1, len(experts)):
        power = power * e
    x = d * together
    x = where(x > _FAR, _FAR, where(x < -_FAR, -_FAR, x))
    q = x * x
    y = q * _P[6] + _P[5]
    y = y * q + _P[4]
    y = y * q + _P[3]
    y = y * q + _P[2]
    y = y * q + _P[1]
    y = y * q + _P[0]
    v = q * _Q[3] + _Q[2]
    v = v * q + _Q[1]
    v = v * q + _Q[0]
    return power * x * y / where(v == ZERO, ONE, v)
