"""The streaming kernel: one chunked pass that masks, votes, mixes, relaxes and writes a tensor.

Per element, with base x0, expert deltas d_i = x_i - x0 and everything in float32:

    s_i = keep_i * d_i * rescale_i          keep_i in {0, 1}: magnitude threshold or hashed coin
    v_i = w_i * s_i
    m_i = [sign(v_i) = sign(sum_j v_j)]     with a vote (sign(0) counts as + for the sum); else 1
    D   = (b - 1) x0 + scale * sum_i v_i m_i [/ sum_i w_i m_i]
    y   = x0 + f * D                        f: AIM factor, per input channel
"""

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from hashlib import blake2b

import torch
from torch import Tensor

CHUNK = 1 << 15  # elements; the working set of a chunk stays in the cache


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


def mask_key(seed: int, expert: str, tensor: str) -> int:
    """The 64-bit key of one expert's random mask of one tensor; `expert` is its `fingerprint`."""
    text = f"{seed}\0{expert}\0{tensor}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def coin(key: int, start: int, n: int, device: torch.device) -> Tensor:
    """Hashes of elements start .. start+n-1, uniform on [0, 2^32): (n,) int64.

    A counter-based hash: a 32-bit finalizer over the index, keyed before and in its middle, so the
    value depends on nothing but key and index: not on device, chunk or order.
    """
    edge = ((start >> 32) + 1) << 32
    if start + n > edge:
        parts = [coin(key, start, edge - start, device), coin(key, edge, start + n - edge, device)]
        return torch.cat(parts)
    out = torch.empty(n, dtype=torch.int32, device=device)
    return _hash(key, start, out, torch.empty_like(out)).long() & 0xFFFFFFFF


def _hash(key: int, start: int, x: Tensor, spare: Tensor) -> Tensor:
    """Overwrite x (n,) int32 with hashes (bit patterns); the chunk lies within one 2^32 block."""
    torch.arange(len(x), out=x)
    x.add_(_signed(start)).bitwise_xor_(_signed(key ^ (start >> 32) * 0x9E3779B9))
    for shift, factor, high in ((16, 0x7FEB352D, key >> 32), (15, 0x846CA68B, 0), (16, 1, 0)):
        torch.bitwise_right_shift(x, shift, out=spare)
        x.bitwise_xor_(spare.bitwise_and_((1 << (32 - shift)) - 1))  # a logical shift
        if factor != 1:
            x.mul_(_signed(factor))
        if high:
            x.add_(_signed(high))
    return x


def _signed(bits: int) -> int:
    """The int32 with the lowest 32 bits of a whole number."""
    bits &= 0xFFFFFFFF
    return bits - (1 << 32) if bits >> 31 else bits


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


class Scratch:
    """Buffers of one chunk, reused from chunk to chunk: allocating costs more than computing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialized (n,) buffer; the same memory for the same name."""
        known = self._buffers.get(name)
        if known is None or len(known) < n:
            with torch.inference_mode(False):  # usable in any later mode
                known = torch.empty(max(n, CHUNK), dtype=dtype, device=self._device)
            self._buffers[name] = known
        return known[:n]


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
    step = max(1, CHUNK // max(columns, 1)) * columns
    if factor is not None and factor.dim() == 2:
        factor = factor.expand(out.numel() // columns, -1)
    sources = [experts[t.model].reshape(-1) for t in mix.terms]
    tensor = _Flat(out.view(-1), base.reshape(-1), sources, factor, columns)
    if out.device.type != "cpu" or out.numel() <= step:
        return _chunks(tensor, mix, range(0, out.numel(), step))
    # Chunks below torch's own threshold for threads, spread over threads of ours: no barriers.
    starts = range(0, out.numel(), step)
    each = math.ceil(len(starts) / torch.get_num_threads())
    parts = [starts[i : i + each] for i in range(0, len(starts), each)]
    return torch.stack(list(_pool().map(partial(_chunks, tensor, mix), parts))).sum()


@dataclass(frozen=True, eq=False)
class _Flat:
    """One tensor's destination and sources, each (n,), and the factor per column or element row."""

    out: Tensor
    base: Tensor
    experts: Sequence[Tensor]
    factor: Tensor | None  # (columns,) or (rows, columns)
    columns: int


def _chunks(tensor: _Flat, mix: Mix, starts: range) -> Tensor:
    """Write the chunks that begin at `starts`; finite if and only if everything written is."""
    scratch = _scratch(tensor.out.device)
    check = torch.zeros((), dtype=torch.float32, device=tensor.out.device)
    columns, factor = tensor.columns, tensor.factor
    for at in starts:
        written = tensor.out[at : at + starts.step]
        x0 = scratch.get("x0", len(written)).copy_(tensor.base[at : at + starts.step])
        deltas = []
        for i, expert in enumerate(tensor.experts):
            d = scratch.get(f"d{i}", len(x0)).copy_(expert[at : at + starts.step])
            deltas.append(d.sub_(x0))
        update = (
            _update(deltas, mix, at, scratch) if deltas else scratch.get("sum", len(x0)).zero_()
        )
        if mix.base != 1.0:
            update.add_(x0, alpha=mix.base - 1.0)
        if factor is not None:
            rows = slice(at // columns, (at + starts.step) // columns)
            update.view(-1, columns).mul_(factor if factor.dim() < 2 else factor[rows])
        written.copy_(x0.add_(update))
        check += written.sum(dtype=torch.float32)
    return check


def _update(deltas: Sequence[Tensor], mix: Mix, start: int, scratch: Scratch) -> Tensor:
    """D of one chunk, the base's own share aside; overwrites the deltas."""
    for term, d in zip(mix.terms, deltas, strict=True):
        if term.keep is not None:
            _mask(term.keep, d, start, scratch)
        if mix.vote:
            d.mul_(term.weight * term.rescale)
    total = scratch.get("sum", len(deltas[0]))
    if not mix.vote:
        torch.mul(deltas[0], mix.terms[0].weight * mix.terms[0].rescale, out=total)
        for term, d in zip(mix.terms[1:], deltas[1:], strict=True):
            total.add_(d, alpha=term.weight * term.rescale)
        return total.mul_(mix.scale) if mix.scale != 1.0 else total
    total.copy_(deltas[0])
    for d in deltas[1:]:
        total.add_(d)
    positive = total >= 0  # an exact tie elects +
    return _agreeing(deltas, mix, positive, scratch).mul_(mix.scale)


def _agreeing(deltas: Sequence[Tensor], mix: Mix, positive: Tensor, scratch: Scratch) -> Tensor:
    """Sum (or disjoint mean) of the entries with the elected sign; overwrites the deltas."""
    n = len(positive)
    above, below, part = (scratch.get(b, n) for b in ("above", "below", "part"))
    for buffer in (above, below):
        buffer.zero_()
    for d in deltas:
        above.add_(torch.clamp(d, min=0, out=part))
        below.add_(torch.clamp(d, max=0, out=part))
    total = torch.where(positive, above, below, out=scratch.get("sum", n))
    if not mix.mean:
        return total
    # weights of the positive entries and of the negative ones, from their sum and difference
    signed, plain = above.zero_(), below.zero_()
    for term, d in zip(mix.terms, deltas, strict=True):
        sign = torch.sign(d, out=part)
        signed.add_(sign, alpha=term.weight)
        plain.addcmul_(sign, sign, value=term.weight)
    torch.sub(plain, signed, out=part)
    signed.add_(plain)
    weights = torch.where(positive, signed, part, out=plain).mul_(0.5)
    return total.div_(weights.masked_fill_(weights == 0, 1.0))


def _mask(keep: Keep, d: Tensor, start: int, scratch: Scratch) -> None:
    """Zero what is not kept, in place."""
    n = len(d)
    if isinstance(keep, Coin):
        x = scratch.get("hash", n, torch.int32)
        if (start >> 32) != ((start + n - 1) >> 32):
            d.masked_fill_(~keep_mask(keep, d, start), 0.0)
            return
        _hash(keep.key, start, x, scratch.get("spare", n, torch.int32))
        x.bitwise_xor_(_signed(1 << 31))  # unsigned order as signed order
        d.masked_fill_(x >= keep.below - (1 << 31), 0.0)
        return
    ties = min(keep.last + 1 - start, n)
    if ties > 0:
        equal = torch.nonzero(d[:ties].abs() == keep.threshold).flatten()
        values = d[equal]
        torch.hardshrink(d, keep.threshold, out=d)
        d[equal] = values
    else:
        torch.hardshrink(d, keep.threshold, out=d)


_LOCAL = threading.local()


def _scratch(device: torch.device) -> Scratch:
    """This thread's buffers on a device."""
    known: dict[torch.device, Scratch] = _LOCAL.__dict__.setdefault("scratch", {})
    if device not in known:
        known[device] = Scratch(device)
    return known[device]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "evoaim-kernel")
