"""The streaming kernel: one chunked pass that masks, votes, mixes, relaxes and writes a tensor.

Per element, with base x0, expert deltas d_i = x_i - x0 and everything in float32:

    s_i = keep_i * d_i * rescale_i * factor_i     keep_i in {0, 1}: see the masks in `mix`
    D   = scale * update(s, w) + (b - 1) x0       update: a rule of `updates`, such as TIES' vote
    y   = x0 + (1 - strength * I) * D             I: AIM importance, per input channel

with one rounding, to the dtype of the destination. On the CPU (`native`, `machine`) the same recipe
gives the same bits whatever the chunk size and the number of threads.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from evoaim.kernel import native, tensors
from evoaim.kernel.hashing import coin, mask_key
from evoaim.kernel.mix import BASE, Band, Bits, Coin, Keep, Largest, Mix, RankCoin, Relax, Term
from evoaim.kernel.tensors import keep_mask
from evoaim.kernel.updates import (
    ONE,
    ZERO,
    Update,
    elected,
    elected_mean,
    part,
    total,
    update,
    where,
    zero,
)

__all__ = [
    "BASE",
    "ONE",
    "ZERO",
    "Band",
    "Bits",
    "Coin",
    "Keep",
    "Largest",
    "Mix",
    "RankCoin",
    "Relax",
    "Term",
    "Update",
    "Written",
    "coin",
    "elected",
    "elected_mean",
    "keep_mask",
    "mask_key",
    "part",
    "stream",
    "total",
    "update",
    "where",
    "zero",
]

Source = tuple[Tensor, bool]  # a model's tensor (*s), and whether it is a delta to the base already
INFINITE = 0x7F800000  # bits of float32 infinity; NaN lies above


@dataclass(frozen=True, eq=False)
class Written:
    """A tensor that is being written in the background."""

    parts: tuple["Future[int]", ...] = ()
    check: Tensor | None = None  # finite if and only if everything is
    staged: tuple[Tensor, Tensor] | None = None  # destination, and what to copy there

    def finite(self) -> bool:
        """Wait; whether all numbers read and written are finite. Asking again costs nothing."""
        return self._finite

    @cached_property
    def _finite(self) -> bool:
        tops = [part.result() for part in self.parts]
        if self.staged is not None:
            self.staged[0].copy_(self.staged[1])
        if self.check is not None:
            return bool(torch.isfinite(self.check))
        return max(tops, default=0) < INFINITE


def stream(
    out: Tensor, sources: Mapping[str, Source], mix: Mix, aim: Relax | None = None
) -> Written:
    """Start writing the mix of one tensor into `out`.

    Args:
        out: destination (*s), float32, bfloat16 or float16.
        sources: x_i (*s) of BASE and of every model that the mix names, on the device of `out`;
            with True: the float32 delta d_i in its place.
        mix: what to do.
        aim: AIM's last step; None: no AIM.

    Returns:
        What to wait for: `out` holds the result once `finite()` has returned.
    """
    target = (
        out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    )
    staged = None if target is out else (out, target)
    if aim is None and (model := _copied(mix, sources)) is not None:
        mix, sources = Mix(()), {BASE: sources[model]}  # exact: x0 + (x1 - x0) is x1 but for an ulp
    if out.device.type == "cpu":
        return Written(tuple(native.submit(target, sources, mix, aim)), None, staged)
    return Written((), tensors.write(target, sources, mix, aim), staged)


def _copied(mix: Mix, sources: Mapping[str, Source]) -> str | None:
    """The model whose tensor is the result as it stands, if there is one."""
    if len(mix.terms) != 1 or (mix.base, mix.scale, mix.aux) != (1.0, 1.0, ()):
        return None
    term = mix.terms[0]
    whole = mix.update is total and not sources[term.model][1]
    plain = (term.weight, term.rescale, term.keep, term.factor) == (1.0, 1.0, None, None)
    return term.model if whole and plain else None
