"""SCE's selection: the elements in which the experts differ most, and each delta's share there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from evoaim.selection import GRID, largest
from evoaim.statistics import CHUNK, TensorStatistics


@dataclass(frozen=True, eq=False)
class Selections:
    """For each of several counts: what is selected, and the experts' sums of squares in it."""

    thresholds: Any  # (n,) float32, of `spread`
    lasts: Any  # (n,) int64, the last index up to which equal ones are selected
    squares: Any  # (n, experts) float64


def selection(
    tensor: TensorStatistics, experts: tuple[str, ...], fraction: float
) -> tuple[float, int, Any] | None:
    """(threshold, last, sums of squares) of int(fraction * differing) elements; None: of none.

    `differing` counts the elements in which the experts are not all equal.
    """
    who = ("sce", experts)
    differing = tensor.once((*who, "n"), partial(_differing, tensor, experts))
    count = _count(differing, fraction)
    if count == 0:
        return None
    step = round(fraction * GRID)
    if step / GRID == fraction:
        found, at = tensor.once(who, lambda: _select(tensor, experts, _grid(differing))), step - 1
    else:
        key, at = (*who, count), 0
        found = tensor.recent(key, lambda: _select(tensor, experts, [count]))
    return float(found.thresholds[at]), int(found.lasts[at]), found.squares[at]


def _grid(differing: int) -> list[int]:
    return [max(1, _count(differing, j / GRID)) for j in range(1, GRID)]


def _count(differing: int, fraction: float) -> int:
    return int(np.float32(differing) * np.float32(fraction))  # float32: mergekit's count


@njit(nogil=True, cache=True)
def spread(deltas: Any) -> Any:
    """sum_(i<k) (d_i - d_k)^2, N^2 times the variance: (N, n) to (n,) float32, as the kernel's.

    Of few-bit numbers, such as differences of bfloat16 ones, it is exact, so that equal ones are.
    """
    total = np.zeros(deltas.shape[1], np.float32)
    for i in range(1, len(deltas)):
        for k in range(i):
            for j in range(total.size):
                d = deltas[i, j] - deltas[k, j]
                total[j] += d * d
    return total


def _deltas(tensor: TensorStatistics, experts: Sequence[str], start: int, stop: int) -> Any:
    return np.stack([tensor.chunk(e, start, stop).numpy() for e in experts])


def _differing(tensor: TensorStatistics, experts: Sequence[str]) -> int:
    starts = range(0, tensor.size, CHUNK)
    parts = (_deltas(tensor, experts, at, min(at + CHUNK, tensor.size)) for at in starts)
    return sum(int(np.count_nonzero(spread(part))) for part in parts)


def _select(tensor: TensorStatistics, experts: Sequence[str], counts: list[int]) -> Selections:
    found = largest(
        lambda start, stop: spread(_deltas(tensor, experts, start, stop)), tensor.size, counts
    )
    squares = np.zeros((len(counts) + 1, len(experts)))
    for at in range(0, tensor.size, CHUNK):
        deltas = _deltas(tensor, experts, at, min(at + CHUNK, tensor.size))
        _add_squares(spread(deltas), at, (found.thresholds, found.lasts), deltas, squares)
    return Selections(found.thresholds, found.lasts, squares[:-1].cumsum(0))


@njit(nogil=True, cache=True)
def _add_squares(values: Any, start: int, ends: Any, deltas: Any, squares: Any) -> None:
    """Add every d_i^2 to the row of the first of the growing selections that has the element."""
    thresholds, lasts = ends
    for j in range(values.size):
        low, high = 0, len(thresholds)
        while low < high:
            middle = (low + high) // 2
            limit = thresholds[middle]
            if values[j] > limit or (values[j] == limit and start + j <= lasts[middle]):
                high = middle
            else:
                low = middle + 1
        for i in range(len(deltas)):
            squares[low, i] += np.float64(deltas[i, j]) ** 2
