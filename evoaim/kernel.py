"""The streaming kernel: one chunked pass that masks, votes, mixes, relaxes and writes a tensor.

Per element, with base x0, expert deltas d_i = x_i - x0 and everything in float32:

    s_i = keep_i * d_i * rescale_i          keep_i in {0, 1}: magnitude threshold or hashed coin
    v_i = w_i * s_i
    m_i = [sign(v_i) = sign(sum_j v_j)]     with a vote (sign(0) counts as + for the sum); else 1
    D   = (b - 1) x0 + scale * sum_i v_i m_i [/ sum_i w_i m_i]
    y   = x0 + f * D                        f: AIM factor, per input channel
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements; the working set of a chunk stays in the cache


@dataclass(frozen=True)
class Largest:
    """Keep the elements whose |d| is above `threshold`, or equal to it up to index `last`.

    `last` makes the count exact when magnitudes are equal: the first ones in index order stay.
    """

    threshold: float
    last: int


@dataclass(frozen=True)
class Coin:
    """Keep an element if its hash, uniform on [0, 2^32), is below `below`: masks are nested."""

    key: int  # 64 bits
    below: int


Keep = Largest | Coin


@dataclass(frozen=True)
class Term:
    """One expert's share: weight w, rescale factor of its masked delta, and the mask."""

    model: str
    weight: float
    rescale: float = 1.0
    keep: Keep | None = None


@dataclass(frozen=True)
class Mix:
    """What the kernel does to one tensor; see the module's formula."""

    terms: tuple[Term, ...]
    base: float = 1.0  # b
    scale: float = 1.0
    vote: bool = False  # elect a sign per element and drop what disagrees
    mean: bool = False  # divide by the weights that take part; only with a vote


def mask_key(seed: int, model: str, tensor: str) -> int:
    """The 64-bit key of one expert's random mask of one tensor."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def coin(key: int, start: int, n: int, device: torch.device) -> Tensor:
    """Hashes of elements start .. start+n-1, uniform on [0, 2^32): (n,) int64.

    A counter-based hash (two rounds of a 32-bit finalizer keyed by both halves of `key`), so the
    value depends on nothing but key and index: not on device, chunk or order.
    """
    edge = ((start >> 32) + 1) << 32
    if start + n > edge:
        return torch.cat(
            [coin(key, start, edge - start, device), coin(key, edge, start + n - edge, device)]
        )
    low, high = key & 0xFFFFFFFF, (key >> 32) ^ ((start >> 32) * 0x9E3779B9 & 0xFFFFFFFF)
    x = torch.arange(start & 0xFFFFFFFF, (start & 0xFFFFFFFF) + n, device=device)
    for half in (low, high):
        x ^= half
        x ^= x >> 16
        x.mul_(0x7FEB352D).bitwise_and_(0xFFFFFFFF)
        x ^= x >> 15
        x.mul_(0x846CA68B).bitwise_and_(0xFFFFFFFF)
        x ^= x >> 16
    return x


def keep_mask(keep: Keep, delta: Tensor, start: int) -> Tensor:
    """Boolean mask of a flat chunk of a delta (n,) that begins at element `start`."""
    if isinstance(keep, Coin):
        return coin(keep.key, start, len(delta), delta.device) < keep.below
    size = delta.abs()
    mask = size > keep.threshold
    ties = keep.last + 1 - start  # how many elements of this chunk lie at or before `last`
    if ties > 0:
        mask[:ties] |= size[:ties] == keep.threshold
    return mask


def stream(
    out: Tensor, base: Tensor, experts: Mapping[str, Tensor], mix: Mix, factor: Tensor | None
) -> Tensor:
    """Write the mix of one tensor into `out`.

    Args:
        out: destination (*s), any float dtype.
        base: x0 (*s), any float dtype, on the device of `out`.
        experts: x_i (*s) of every model that the mix names.
        mix: what to do.
        factor: AIM factor f, broadcastable to (*s), float32; None: 1 everywhere.

    Returns:
        A scalar tensor that is finite if and only if everything written is.
    """
    columns = out.shape[-1] if out.dim() else 1
    rows = max(1, CHUNK // max(columns, 1))
    views = [t.reshape(-1, columns) for t in (out, base)]
    deltas = [experts[t.model].reshape(-1, columns) for t in mix.terms]
    f = factor if factor is None or factor.dim() < 2 else factor.expand(views[0].shape[0], -1)
    check = torch.zeros((), dtype=torch.float32, device=out.device)
    for r in range(0, views[0].shape[0], rows):
        x0 = views[1][r : r + rows].to(torch.float32, copy=True)
        chunk = [d[r : r + rows].float().sub(x0) for d in deltas]
        update = _update(chunk, mix, r * columns) if chunk else torch.zeros_like(x0)
        if mix.base != 1.0:
            update.add_(x0, alpha=mix.base - 1.0)
        if f is not None:
            update.mul_(f if f.dim() < 2 else f[r : r + rows])
        written = x0.add_(update).to(out.dtype)
        check += written.sum(dtype=torch.float32)
        views[0][r : r + rows] = written
    return check


def _update(deltas: Sequence[Tensor], mix: Mix, start: int) -> Tensor:
    """D of one chunk, the base's own share aside; overwrites the deltas."""
    for term, d in zip(mix.terms, deltas, strict=True):
        if term.keep is not None:
            d.mul_(keep_mask(term.keep, d.view(-1), start).view_as(d))
        d.mul_(term.weight * term.rescale)
    total = deltas[0].clone()
    for d in deltas[1:]:
        total.add_(d)
    if not mix.vote:
        return total.mul_(mix.scale)
    positive = total >= 0  # an exact tie elects +
    total.zero_()
    weights = torch.zeros_like(total)
    for term, d in zip(mix.terms, deltas, strict=True):
        agrees = torch.where(positive, d > 0, d < 0)
        total.add_(d.mul_(agrees))
        if mix.mean:
            weights.add_(agrees, alpha=term.weight)
    if mix.mean:
        total.div_(weights.masked_fill_(weights == 0, 1.0))
    return total.mul_(mix.scale)
