"""Machine code of the kernel's stages: numba functions over one chunk, each vectorized.

Tensors come as addresses and dtype codes, so that one compiled function serves every dtype. numba
widens integers to 64 bits; the casts back keep the lanes at 32.
"""

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from evoaim.kernel.hashing import BLOCK, MULTIPLIERS

F32, BF16, F16 = 0, 1, 2
U32, F = np.uint32, np.float32
_M0, _M1, _BLOCK = U32(MULTIPLIERS[0]), U32(MULTIPLIERS[1]), U32(BLOCK)
_MAGNITUDE, _ONE16 = U32(0x7FFFFFFF), U32(1)


@intrinsic
def _pointer(_context: Any, _address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@njit(nogil=True)
def load(address: int, dtype: int, start: int, out: Any) -> Any:
    """Read elements from `start` on into out (n,) float32; the largest magnitude's bits."""
    n, bits, top = out.size, out.view(np.uint32), U32(0)
    if dtype == F32:
        words = carray(_pointer(address + 4 * start), (n,), np.uint32)
        for j in range(n):
            bits[j] = words[j]
            top = max(top, U32(words[j] & _MAGNITUDE))
        return top
    halves = carray(_pointer(address + 2 * start), (n,), np.uint16)
    if dtype == BF16:
        for j in range(n):
            b = U32(U32(halves[j]) << U32(16))
            bits[j] = b
            top = max(top, U32(b & _MAGNITUDE))
        return top
    scale = F(2.0**112)  # moves float16's exponent to float32's, subnormal numbers included
    for j in range(n):
        h = U32(halves[j])
        bits[j] = U32(U32(h & U32(0x7FFF)) << U32(13))
        out[j] *= scale
        special = U32(U32(U32(h & U32(0x7C00)) == U32(0x7C00)) * U32(0x7F800000))
        b = U32(U32(bits[j] | special) | U32(U32(h & U32(0x8000)) << U32(16)))
        bits[j] = b
        top = max(top, U32(b & _MAGNITUDE))
    return top


@njit(nogil=True)
def load_delta(address: int, dtype: int, start: int, x0: Any, out: Any) -> Any:
    """As `load`, less x0 (n,)."""
    n, top = out.size, U32(0)
    if dtype == BF16:
        halves = carray(_pointer(address + 2 * start), (n,), np.uint16)
        bits = out.view(np.uint32)
        for j in range(n):
            b = U32(U32(halves[j]) << U32(16))
            bits[j] = b
            top = max(top, U32(b & _MAGNITUDE))
            out[j] -= x0[j]
        return top
    top = load(address, dtype, start, out)
    for j in range(n):
        out[j] -= x0[j]
    return top


@njit(nogil=True)
def store(address: int, dtype: int, start: int, x: Any) -> Any:
    """Write x (n,) float32, rounded to nearest even; the bits of the largest magnitude written."""
    n, bits, top = x.size, x.view(np.uint32), U32(0)
    if dtype == F32:
        words = carray(_pointer(address + 4 * start), (n,), np.uint32)
        for j in range(n):
            words[j] = bits[j]
            top = max(top, U32(bits[j] & _MAGNITUDE))
        return top
    halves = carray(_pointer(address + 2 * start), (n,), np.uint16)
    if dtype == BF16:
        for j in range(n):
            b = bits[j]
            halves[j] = np.uint16(
                U32(U32(U32(b + U32(0x7FFF)) + U32(U32(b >> U32(16)) & _ONE16)) >> U32(16))
            )
            top = max(top, U32(b & _MAGNITUDE))
        return max(top, U32(U32(top >= U32(0x7F7F8000)) * U32(0x7F800000)))  # rounded to inf
    for j in range(n):
        b = bits[j]
        m = U32(b & _MAGNITUDE)
        top = max(top, m)
        halves[j] = np.uint16(U32(_half(m) | U32(U32(b >> U32(16)) & U32(0x8000))))
    return max(top, U32(U32(top >= U32(0x477FF000)) * U32(0x7F800000)))  # rounded to inf


@njit(nogil=True)
def _half(m: Any) -> Any:
    """The float16 bits of a non-negative float32's bits, rounded to nearest even."""
    if m >= U32(0x47800000):  # 65536 and above: infinity or NaN
        return U32(0x7E00) if m > U32(0x7F800000) else U32(0x7C00)
    if m < U32(0x38800000):  # subnormal: units of 2^-24
        shift = U32(126) - U32(m >> U32(23))
        if shift > U32(24):
            return U32(0)
        whole = U32(U32(m & U32(0x7FFFFF)) | U32(0x800000))
        half = U32(U32(_ONE16 << shift) >> _ONE16)
        kept = U32(whole >> shift)
        rest = U32(whole & U32(U32(_ONE16 << shift) - _ONE16))
        return U32(kept + U32((rest > half) | ((rest == half) & (U32(kept & _ONE16) == _ONE16))))
    odd = U32(U32(m >> U32(13)) & _ONE16)
    return U32(U32(U32(U32(m - U32(0x38000000)) + U32(0xFFF)) + odd) >> U32(13))


@njit(nogil=True)
def scale(d: Any, factor: Any) -> None:
    """d *= factor"""
    if factor != F(1):
        for j in range(d.size):
            d[j] *= factor


@njit(nogil=True)
def add(d: Any, x: Any, factor: Any) -> None:
    """d += factor * x"""
    if factor == F(1):
        for j in range(d.size):
            d[j] += x[j]
    elif factor != F(0):
        for j in range(d.size):
            d[j] += factor * x[j]


@njit(nogil=True)
def keep_largest(d: Any, threshold: Any, last: int) -> None:
    """Zero what `Largest` drops; `last` counts from the chunk's start."""
    ties = min(max(last + 1, 0), d.size)
    head, tail = d[:ties], d[ties:]  # indices from 0 need no test for negative ones
    for j in range(head.size):
        head[j] *= F(abs(head[j]) >= threshold)
    for j in range(tail.size):
        tail[j] *= F(abs(tail[j]) > threshold)


@njit(nogil=True)
def drop_largest(d: Any, threshold: Any, last: int) -> None:
    """Zero what `Largest` keeps."""
    ties = min(max(last + 1, 0), d.size)
    head, tail = d[:ties], d[ties:]
    for j in range(head.size):
        head[j] *= F(abs(head[j]) < threshold)
    for j in range(tail.size):
        tail[j] *= F(abs(tail[j]) <= threshold)


@njit(nogil=True)
def hash_chunk(start: int, low: Any, high: Any, out: Any) -> None:
    """Hashes of elements start .. start+n-1 into out (n,) uint32."""
    key = U32(low ^ U32(U32(start >> 32) * _BLOCK))
    first = U32(start & 0xFFFFFFFF)
    edge = 0x100000000 - (start & 0xFFFFFFFF)  # where the index passes a multiple of 2^32
    for j in range(min(out.size, edge)):
        out[j] = _hash(U32(U32(j) + first), key, high)
    key = U32(low ^ U32(U32((start >> 32) + 1) * _BLOCK))
    for j in range(min(out.size, edge), out.size):
        out[j] = _hash(U32(U32(j) + first), key, high)


@njit(nogil=True)
def _hash(index: Any, low: Any, high: Any) -> Any:
    x = U32(index ^ low)
    x = U32(x ^ U32(x >> U32(16)))
    x = U32(U32(x * _M0) + high)
    x = U32(x ^ U32(x >> U32(15)))
    x = U32(x * _M1)
    return U32(x ^ U32(x >> U32(16)))


@njit(nogil=True)
def keep_coins(d: Any, start: int, low: Any, high: Any, below: Any) -> None:
    """Zero the elements whose hash is not below `below`."""
    first, key = U32(start & 0xFFFFFFFF), U32(low ^ U32(U32(start >> 32) * _BLOCK))
    edge = min(d.size, 0x100000000 - (start & 0xFFFFFFFF))
    for j in range(edge):
        d[j] *= F(_hash(U32(U32(j) + first), key, high) < below)
    if edge < d.size:
        keep_coins(d[edge:], start + edge, low, high, below)


@njit(nogil=True)
def keep_ranked(d: Any, start: int, low: Any, high: Any, ranks: int, ends: Any) -> None:
    """Zero the elements whose uniform number is not below p = ends[0] + rank * ends[1].

    With ends[2] what is kept is divided by p.
    """
    least, slope, unbiased = ends[0], ends[1], ends[2]
    first, key = U32(start & 0xFFFFFFFF), U32(low ^ U32(U32(start >> 32) * _BLOCK))
    edge = min(d.size, 0x100000000 - (start & 0xFFFFFFFF))
    rank = carray(_pointer(ranks + start), (d.size,), np.uint8)
    for j in range(edge):
        u = F(np.int32(_hash(U32(U32(j) + first), key, high) >> U32(8))) * F(2.0**-24)
        d[j] *= F(u < least + F(rank[j]) * slope)
    if unbiased != F(0):
        for j in range(edge):
            d[j] /= least + F(rank[j]) * slope
    if edge < d.size:
        keep_ranked(d[edge:], start + edge, low, high, ranks, ends)


@njit(nogil=True)
def keep_bits(d: Any, start: int, mask: int) -> None:
    """Zero the elements whose byte in the mask is 0."""
    bit = carray(_pointer(mask + start), (d.size,), np.uint8)
    for j in range(d.size):
        d[j] *= F(bit[j])


@njit(nogil=True)
def multiply(d: Any, start: int, field: Any, columns: int) -> None:
    """Multiply by a broadcast float32 field: (address, rows a group, row stride, column stride)."""
    address, group, row_stride, column_stride = field
    at = 0
    while at < d.size:
        row, column = divmod(start + at, columns)
        n = min(d.size - at, columns - column)
        first = address + 4 * (row // group * row_stride + column * column_stride)
        part = d[at : at + n]
        if column_stride == 0:
            value = carray(_pointer(first), (1,), np.float32)[0]
            for j in range(n):
                part[j] *= value
        else:
            values = carray(_pointer(first), (n,), np.float32)
            for j in range(n):
                part[j] *= values[j]
        at += n


@njit(nogil=True)
def relax(u: Any, x0: Any, start: int, field: Any, columns: int, strength: Any) -> None:
    """u = x0 + u * (1 - strength * I), I a broadcast float32 field as in `multiply`."""
    address, group, row_stride, column_stride = field
    at = 0
    while at < u.size:
        row, column = divmod(start + at, columns)
        n = min(u.size - at, columns - column)
        first = address + 4 * (row // group * row_stride + column * column_stride)
        part, x = u[at : at + n], x0[at : at + n]
        if column_stride == 0:
            value = F(1) - carray(_pointer(first), (1,), np.float32)[0] * strength
            for j in range(n):
                part[j] = x[j] + part[j] * value
        else:
            values = carray(_pointer(first), (n,), np.float32)
            for j in range(n):
                part[j] = x[j] + part[j] * (F(1) - values[j] * strength)
        at += n
