"""The k largest of very many numbers, for many k at once, in three streaming passes without a sort.

The numbers are non-negative float32, whose bit patterns sort as they do. Pass one counts by the
upper 20 bits, pass two by the lower 11 within the bins that hold an answer, pass three finds up to
which index equal numbers are kept, so that the count is exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from evoaim.kernel import Largest

Chunks = Callable[[int, int], Any]  # (start, stop) -> float32 array of the numbers there
CHUNK = 1 << 16  # numbers of one step
SMALL = 1 << 15  # up to here a sort is faster than counting
GRID = 1000  # densities on multiples of 1/GRID can be prepared all at once
LOW = 11
_HIGH_BINS, _LOW_BINS = 1 << 20, 1 << LOW


@dataclass(frozen=True)
class Selected:
    """The mask that keeps the k largest, and the sum of what it keeps."""

    keep: Largest
    total: float


@dataclass(frozen=True, eq=False)
class Selection(Sequence[Selected]):
    """One `Selected` for each count, in arrays: threshold, last kept index, sum."""

    thresholds: Any  # (n,) float32
    lasts: Any  # (n,) int64
    totals: Any  # (n,) float64

    def __len__(self) -> int:
        return len(self.lasts)

    def __getitem__(self, i: Any) -> Any:
        return self.at(i)

    def at(self, i: int) -> Selected:
        """The i-th."""
        keep = Largest(float(self.thresholds[i]), int(self.lasts[i]))
        return Selected(keep, float(self.totals[i]))


def grid_counts(n: int) -> list[int]:
    """The counts that are prepared: those of the densities 1/GRID, 2/GRID, ... of n, and 1.

    And those beside them: sums and differences of two counts may miss the grid by one.
    """
    grid = [_grid_count(j, n) + beside for j in range(1, GRID) for beside in (-1, 0, 1)]
    return [min(max(count, 1), n) for count in (*grid, 1)]


def grid_place(count: int, n: int) -> int | None:
    """Where `grid_counts` has a count; None: it is not among them."""
    if count == 1:
        return 3 * (GRID - 1)
    near = count * GRID // n
    for j in range(near - 1, near + 3):
        beside = count - _grid_count(j, n)
        if 0 < j < GRID and -1 <= beside <= 1:
            return 3 * (j - 1) + beside + 1
    return None


def _grid_count(step: int, n: int) -> int:
    # int(), not a rounded product: the count that mergekit keeps for the same density
    return max(1, int(step / GRID * n))


def largest(values: Chunks, n: int, counts: Sequence[int]) -> Selection:
    """Masks of the k largest of n numbers for every k; among equal ones the first are kept.

    Args:
        values: gives any stretch of the numbers; called several times in order.
        n: how many there are.
        counts: each in [1, n].
    """
    wanted, order = np.unique(np.array(counts, np.int64), return_inverse=True)
    found = (_sorted if n <= SMALL else _counted)(values, n, wanted)
    return Selection(found.thresholds[order], found.lasts[order], found.totals[order])


def _sorted(values: Chunks, n: int, counts: Any) -> Selection:
    numbers = values(0, n)
    order = np.argsort(-numbers, kind="stable")
    totals = numbers[order].cumsum(dtype=np.float64)
    at = order[counts - 1]
    return Selection(numbers[at], at, totals[counts - 1])


def _counted(values: Chunks, n: int, counts: Any) -> Selection:
    starts = range(0, n, CHUNK)
    whole = np.int32 if n < 1 << 31 else np.int64  # half the memory, unless the counts need it
    high, sums = np.zeros(_HIGH_BINS, whole), np.zeros(_HIGH_BINS, np.float64)
    for start in starts:
        _count_high(values(start, min(start + CHUNK, n)), high, sums)
    bins, above, sums_above = _bins(counts, high, sums)
    used = np.unique(bins)
    slots = np.full(_HIGH_BINS, -1, np.int32)
    slots[used] = np.arange(len(used))
    low = np.zeros((len(used), _LOW_BINS), whole)
    for start in starts:
        _count_low(values(start, min(start + CHUNK, n)), slots, low)
    bits, kept, totals = _resolve(counts - above, bins, slots, low)
    lasts = np.full(len(counts), n - 1, np.int64)
    partly = np.flatnonzero(kept < low[slots[bits >> LOW], bits & (_LOW_BINS - 1)])
    # equal numbers may be asked for several times, with growing counts; the first leads the rest:
    # counts ascend, so the thresholds descend, and equal ones stand side by side
    if len(partly):
        patterns = np.unique(bits[partly])
        heads = np.searchsorted(-bits[partly], -patterns, side="left")
        asked = np.zeros_like(low)
        asked[slots[patterns >> LOW], patterns & (_LOW_BINS - 1)] = heads + 1
        seen, ends = np.zeros(len(partly), np.int64), np.zeros(len(partly), np.int64)
        wanted = (bits[partly], kept[partly], seen, np.arange(len(partly)), ends)
        for start in starts:
            _find(values(start, min(start + CHUNK, n)), start, (slots, asked), wanted)
        lasts[partly] = ends
    return Selection(bits.astype(np.uint32).view(np.float32), lasts, sums_above + totals)


@njit(nogil=True, cache=True)
def _count_high(values: Any, high: Any, sums: Any) -> None:
    bits = values.view(np.uint32)
    for j in range(len(values)):
        b = np.int64(bits[j] >> np.uint32(LOW))
        high[b] += 1
        sums[b] += values[j]


@njit(nogil=True, cache=True)
def _bins(counts: Any, high: Any, sums: Any) -> Any:
    """For ascending counts k: the bin of the k-th largest, and count and sum of the bins above."""
    bins, above = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    sums_above = np.zeros(len(counts), np.float64)
    i, seen, total = 0, 0, 0.0
    for b in range(len(high) - 1, -1, -1):
        while i < len(counts) and seen + high[b] >= counts[i]:
            bins[i], above[i], sums_above[i] = b, seen, total
            i += 1
        seen += high[b]
        total += sums[b]
    return bins, above, sums_above


@njit(nogil=True, cache=True)
def _resolve(rests: Any, bins: Any, slots: Any, low: Any) -> Any:
    """The rest-th largest within each bin: its bits, how many equal ones are kept, the sum."""
    bits, kept = np.zeros(len(rests), np.int64), np.zeros(len(rests), np.int64)
    totals, number = np.zeros(len(rests), np.float64), np.zeros(1, np.uint32)
    for i in range(len(rests)):
        seen, row = 0, low[slots[bins[i]]]
        for at in range(len(row) - 1, -1, -1):
            if row[at] == 0:
                continue
            number[0] = (bins[i] << LOW) | at
            taken = min(row[at], rests[i] - seen)
            totals[i] += number.view(np.float32)[0] * np.float64(taken)
            seen += taken
            if seen == rests[i]:
                bits[i], kept[i] = (bins[i] << LOW) | at, taken
                break
    return bits, kept, totals


@njit(nogil=True, cache=True)
def _count_low(values: Any, slots: Any, low: Any) -> None:
    bits = values.view(np.uint32)
    for j in range(len(values)):
        slot = slots[np.int64(bits[j] >> np.uint32(LOW))]
        if slot >= 0:
            low[slot, np.int64(bits[j] & np.uint32(_LOW_BINS - 1))] += 1


@njit(nogil=True, cache=True)
def _find(values: Any, start: int, tables: Any, wanted: Any) -> None:
    """Note the index of the count-th number with each wanted bit pattern."""
    slots, needs = tables
    pattern, count, seen, cursor, ends = wanted
    bits = values.view(np.uint32)
    for j in range(len(values)):
        slot = slots[np.int64(bits[j] >> np.uint32(LOW))]
        if slot < 0:
            continue
        first = needs[slot, np.int64(bits[j] & np.uint32(_LOW_BINS - 1))] - 1
        if first < 0:
            continue
        seen[first] += 1
        at = cursor[first]
        if at < len(pattern) and pattern[at] == pattern[first] and seen[first] == count[at]:
            ends[at] = start + j
            cursor[first] = at + 1
