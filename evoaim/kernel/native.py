"""The kernel on the CPU: one compiled loop over chunks, spread over threads."""

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from llvmlite.binding import set_option
from numba import njit
from numba.core.registry import cpu_target
from torch import Tensor

from evoaim.kernel import machine, packing
from evoaim.kernel.mix import Keep, Mix, Relax
from evoaim.kernel.updates import Update

CHUNK = 1 << 13  # elements; the working set of a chunk stays in the cache
PARALLEL = 1 << 17  # elements above which a tensor is split between threads
# What holds a loop over experts vectorizes only if that loop is unrolled, which LLVM by itself does
# for few experts: with eight the rules would be twenty times slower.
set_option("", "-unroll-threshold=10000")
_FILES = ("hashing", "machine", "native", "packing", "updates")
_SOURCES = crc32(b"".join(Path(__file__).with_name(f"{f}.py").read_bytes() for f in _FILES))


def submit(
    out: Tensor, sources: Mapping[str, tuple[Tensor, bool]], mix: Mix, aim: Relax | None
) -> list["Future[int]"]:
    """Start writing the mix into `out`, in the background; see `evoaim.kernel.stream`.

    Returns:
        Futures of the bits of the largest float32 magnitude that was read or written: above
        0x7F7FFFFF something is not finite.
    """
    packed = packing.pack(out, sources, mix, aim)
    run = _compiled(mix.update, len(mix.terms) + len(mix.aux) > 0)
    n, threads = out.numel(), torch.get_num_threads()
    parts = min(threads, max(1, n // PARALLEL))
    each = math.ceil(n / parts / CHUNK) * CHUNK if n else 0

    def work(start: int) -> int:  # holds `packed`: what the addresses point to stays alive
        return int(run(*packed.values, start, min(start + each, n), CHUNK))

    return [_pool(threads).submit(work, start) for start in range(0, n, each or 1)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "evoaim-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of the threads


def warm() -> None:
    """Let numba import what it does before it compiles or loads its first function."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


@cache
def _compiled(update: Update, updated: bool) -> Callable[..., Any]:
    """The loop for one update rule. numba specializes it to the numbers of experts and scalars."""
    # kept on disk under the code of the rule and of everything that is compiled into the loop
    rule, stamp = update.rule, update.stamp ^ _SOURCES

    @njit(nogil=True, cache=True)
    def run(
        whole: Any, real: Any, aux: Any, w: Any, p: Any, start: int, stop: int, step: int
    ) -> Any:
        k, m, top = len(w), len(aux), np.uint32(stamp * 0)
        s = np.empty((max(k, 1), step), np.float32)
        a = np.empty((m + 1, step), np.float32)
        y = np.empty(step, np.float32)
        for at in range(start, stop, step):
            n = min(step, stop - at)
            x0, u = a[m, :n], y[:n]
            top = max(top, machine.load(whole[0, packing.X0], whole[0, packing.X0_DTYPE], at, x0))
            for i in range(k):
                top = max(top, _delta(s[i, :n], x0, at, whole[i + 1], real[i + 1], whole[0]))
            for i in range(m):
                _further(a[i, :n], at, aux[i], whole[0, packing.COLUMNS])
            if updated:
                for j in range(n):
                    u[j] = rule(s, w, a, p, j)
            else:
                u[:] = np.float32(0)
            top = max(top, _finish(at, x0, u, whole[0], real[0]))
        return top

    compiled: Callable[..., Any] = run
    return compiled


@njit(nogil=True)
def _delta(d: Any, x0: Any, at: int, whole: Any, real: Any, first: Any) -> Any:
    """An expert's masked and rescaled delta; the bits of the largest magnitude read."""
    address, dtype = whole[packing.X], whole[packing.DTYPE]
    if whole[packing.IS_DELTA]:
        top = machine.load(address, dtype, at, d)
    else:
        top = machine.load_delta(address, dtype, at, x0, d)
    _mask(d, at, whole, real)
    machine.scale(d, real[packing.RESCALE])
    if whole[packing.FIELD] != 0:
        field = whole[packing.FIELD : packing.FIELD + 4]
        machine.multiply(d, at, field, first[packing.COLUMNS])
    return top


@njit(nogil=True)
def _mask(d: Any, at: int, whole: Any, real: Any) -> None:
    kind = whole[packing.KIND]
    low, high = np.uint32(whole[packing.LOW]), np.uint32(whole[packing.HIGH])
    if kind in (packing.LARGEST, packing.BAND):
        machine.keep_largest(d, real[packing.THRESHOLD], whole[packing.LAST] - at)
        if kind == packing.BAND:
            machine.drop_largest(d, real[packing.THRESHOLD + 1], whole[packing.LAST + 1] - at)
    elif kind == packing.COIN:
        machine.keep_coins(d, at, low, high, np.uint32(whole[packing.BELOW]))
    elif kind == packing.RANKED:
        ends = real[packing.ENDS : packing.ENDS + 3]
        machine.keep_ranked(d, at, low, high, whole[packing.STORED], ends)
    elif kind == packing.BITS:
        machine.keep_bits(d, at, whole[packing.STORED])


@njit(nogil=True)
def _further(out: Any, at: int, aux: Any, columns: int) -> None:
    """A further tensor of the mix."""
    if aux[2] == 1:
        machine.load(aux[0], aux[1], at, out)
    else:
        out[:] = np.float32(1)
        machine.multiply(out, at, aux[3:], columns)


@njit(nogil=True)
def _finish(at: int, x0: Any, u: Any, whole: Any, real: Any) -> Any:
    """Scale, the base's own share, AIM's factor, and the write."""
    machine.scale(u, real[packing.SCALE])
    machine.add(u, x0, real[packing.LESS_BASE])
    if whole[packing.AIM] != 0:
        field = whole[packing.AIM : packing.AIM + 4]
        machine.relax(u, x0, at, field, whole[packing.COLUMNS], real[packing.STRENGTH])
    else:
        machine.add(u, x0, np.float32(1))
    return machine.store(whole[packing.OUT], whole[packing.OUT_DTYPE], at, u)


def kept_sum(d: Tensor, start: int, keep: Keep) -> float:
    """Sum of |d| over what a mask keeps of d (n,) float32, elements start .. start+n-1."""
    packed = packing.pack_mask(keep)
    return float(_sums()[0](d.contiguous().numpy().copy(), start, *packed.values))


def coin_sums(d: Tensor, start: int, key: int, edges: Any, sums: Any) -> None:
    """Add |d| to sums[b] where the element's coin lies in [edges[b], edges[b + 1]).

    The edges split [0, 2^32) into equal parts, up to rounding down.
    """
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    _sums()[1](d.contiguous().numpy(), (start, low, high), edges, sums)


@cache
def _sums() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The loops of `kept_sum` and `coin_sums`."""
    stamp = _SOURCES  # as in `_compiled`

    @njit(nogil=True, cache=True)
    def kept(d: Any, start: int, whole: Any, real: Any) -> Any:
        _mask(d, start, whole, real)
        total = 0.0 * stamp
        for j in range(d.size):
            total += abs(d[j])
        return total

    @njit(nogil=True, cache=True)
    def by_coin(d: Any, origin: Any, edges: Any, sums: Any) -> None:
        start, low, high = origin
        coins = np.empty(d.size, np.uint32)
        machine.hash_chunk(start + 0 * stamp, low, high, coins)
        n = np.uint64(sums.size)
        for j in range(d.size):
            c = np.uint64(coins[j])
            b = np.int64((c * n) >> np.uint64(32))
            if c >= edges[b + 1]:
                b += 1
            sums[b] += abs(d[j])

    return kept, by_coin
