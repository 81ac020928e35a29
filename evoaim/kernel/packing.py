"""A mix as two tables of numbers and addresses: the form in which machine code reads it.

One row for the tensor itself, one for each expert; the columns are the constants of this module.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoaim.kernel import machine
from evoaim.kernel.mix import BASE, Band, Bits, Coin, Keep, Largest, Mix, RankCoin, Relax

# Whole numbers. First row: of the destination, the base, AIM's field.
OUT, OUT_DTYPE, COLUMNS, X0, X0_DTYPE, AIM = 0, 1, 2, 3, 4, 9
# Every other row: of an expert's tensor, its mask, its factor's field.
X, DTYPE, IS_DELTA, KIND, LAST, LOW, HIGH, BELOW, FIELD = 0, 1, 2, 3, 4, 6, 7, 8, 9
STORED = 13  # address of a stored mask or rank
# float32 numbers. First row, and every other row.
LESS_BASE, SCALE, STRENGTH = 0, 1, 2
RESCALE, THRESHOLD, ENDS = 0, 1, 3

ALL, LARGEST, BAND, COIN, RANKED, BITS = range(6)
_CODES = {torch.float32: machine.F32, torch.bfloat16: machine.BF16, torch.float16: machine.F16}
_NO_FIELD = (0, 1, 0, 0)
_NO_AUX = np.zeros((0, 7), np.int64)


@dataclass(frozen=True, eq=False)
class Packed:
    """What the compiled loop takes, and the tensors that its addresses point to."""

    values: tuple[Any, ...]
    held: list[Tensor] = field(default_factory=list)


def pack(
    out: Tensor, sources: Mapping[str, tuple[Tensor, bool]], mix: Mix, aim: Relax | None
) -> Packed:
    """Pack one tensor's mix; see `evoaim.kernel.stream` for the arguments."""
    held = [out]
    address, code = _address(sources[BASE][0], held)
    columns = out.shape[-1] if out.dim() else 1
    aim_field = _field(aim.importance if aim else None, out, held)
    first = (out.data_ptr(), _CODES[out.dtype], columns, address, code, 0, 0, 0, 0, *aim_field, 0)
    whole: list[tuple[int, ...]] = [first]
    strength = aim.strength if aim else 0.0
    real: list[tuple[float, ...]] = [(mix.base - 1.0, mix.scale, strength, 0.0, 0.0, 0.0)]
    for term in mix.terms:
        tensor, is_delta = sources[term.model]
        kind, ints, (low, high, *ends) = _keep(term.keep, held)
        *mask, stored = ints
        factor = _field(term.factor, out, held)
        whole.append((*_address(tensor, held), int(is_delta), kind, *mask, *factor, stored))
        real.append((term.rescale, low, high, *ends))
    aux = np.array([_aux(a, out, held) for a in mix.aux], np.int64) if mix.aux else _NO_AUX
    f32 = np.float32
    numbers = (tuple(f32(t.weight) for t in mix.terms), tuple(f32(x) for x in mix.scalars))
    return Packed((np.array(whole, np.int64), np.array(real, f32), aux, *numbers), held)


def pack_mask(keep: Keep) -> Packed:
    """The two rows of a lone mask."""
    held: list[Tensor] = []
    kind, ints, (low, high, *ends) = _keep(keep, held)
    *mask, stored = ints
    whole = np.array((0, 0, 0, kind, *mask, *_NO_FIELD, stored), np.int64)
    return Packed((whole, np.array((1.0, low, high, *ends), np.float32)), held)


def _keep(keep: Keep | None, held: list[Tensor]) -> tuple[int, tuple[int, ...], tuple[float, ...]]:
    """Kind; two last indices, the key's halves, below, address; two thresholds, three ends."""
    none = (0.0,) * 5
    match keep:
        case Largest(threshold, last):
            return LARGEST, (last, 0, 0, 0, 0, 0), (threshold, 0.0, 0.0, 0.0, 0.0)
        case Band(outer, inner):
            lasts = (outer.last, inner.last, 0, 0, 0, 0)
            return BAND, lasts, (outer.threshold, inner.threshold, 0.0, 0.0, 0.0)
        case Coin(key, below):
            return COIN, (0, 0, key & 0xFFFFFFFF, key >> 32, below, 0), none
        case RankCoin():
            address, _ = _address(keep.ranks.view(torch.uint8), held)
            ends = (keep.low, (keep.high - keep.low) / 255, float(keep.unbiased))
            key = keep.key
            return RANKED, (0, 0, key & 0xFFFFFFFF, key >> 32, 0, address), (0.0, 0.0, *ends)
        case Bits():
            address, _ = _address(keep.mask.view(torch.uint8), held)
            return BITS, (0, 0, 0, 0, 0, address), none
    return ALL, (0,) * 6, none


def _address(tensor: Tensor, held: list[Tensor]) -> tuple[int, int]:
    """Address and dtype code."""
    if tensor.dtype not in _CODES and tensor.dtype != torch.uint8:
        tensor = tensor.float()
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    held.append(tensor)
    return tensor.data_ptr(), _CODES.get(tensor.dtype, -1)


def _field(factor: Tensor | None, like: Tensor, held: list[Tensor]) -> tuple[int, int, int, int]:
    """A factor as (address, rows a group, row stride, column stride)."""
    if factor is None:
        return _NO_FIELD
    if factor.dim() == 1 and factor.dtype == torch.float32:  # one number a column
        return _address(factor, held)[0], 1, 0, int(len(factor) > 1)
    shape = (1,) * (like.dim() - factor.dim()) + tuple(factor.shape)
    columns = shape[-1] if shape else 1
    leading = [i for i, n in enumerate(shape[:-1]) if n > 1]
    # rows of the factor are contiguous over its leading axes; after the last of them, a group
    until = leading[-1] + 1 if leading else 0
    if math.prod(shape[:until]) != math.prod(like.shape[:until]) and leading:
        factor = factor.expand(*like.shape[:-1], columns)
        until = like.dim() - 1
    group = math.prod(like.shape[until:-1]) if leading else 1
    address, _ = _address(factor.float(), held)
    return address, max(group, 1), columns if leading else 0, int(columns > 1)


def _aux(tensor: Tensor, like: Tensor, held: list[Tensor]) -> tuple[int, ...]:
    """A further tensor: address, dtype, whether whole, and a field if it is broadcast."""
    if tensor.shape == like.shape:
        return (*_address(tensor, held), 1, *_NO_FIELD)
    return (0, 0, 0, *_field(tensor, like, held))
