"""The kernel in torch operations, for accelerators: the same formula, over blocks of rows.

On a CUDA device each block is one fused function, made by torch.compile; weights, thresholds and
keys reach it as tensors, so that candidates do not make it compile again.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from evoaim.kernel.hashing import hashed
from evoaim.kernel.mix import BASE, Band, Bits, Coin, Keep, Largest, Mix, RankCoin, Relax
from evoaim.kernel.updates import Rule

BLOCK = 1 << 26  # elements of one block: bounds the float32 intermediates of huge tensors


class Rows:
    """Tensors that an update rule sees as `s[i, j]`."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = rows

    def __getitem__(self, at: tuple[int, Any]) -> Tensor:
        return self.rows[at[0]]


def write(
    out: Tensor, sources: Mapping[str, tuple[Tensor, bool]], mix: Mix, aim: Relax | None
) -> Tensor:
    """Write the mix into `out`; a scalar, finite if and only if all that was read and written is.

    As `evoaim.kernel.stream`, on any device.
    """
    columns = out.shape[-1] if out.dim() else 1
    n = out.numel() // max(columns, 1)
    numbers = _numbers(mix, out.device)
    numbers["strength"] = torch.tensor(aim.strength if aim else 0.0, device=out.device)
    run = _compiled(mix.update.rule) if out.device.type == "cuda" else _block
    check = torch.zeros((), device=out.device)
    flat = {m: t.reshape(n, columns) for m, (t, _) in sources.items()}
    deltas = tuple(sources[t.model][1] for t in mix.terms)
    fields = [
        _field(f, out)
        for f in (aim.importance if aim else None, *(t.factor for t in mix.terms), *mix.aux)
    ]
    target, step = out.view(n, columns), max(1, BLOCK // max(columns, 1))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        part = target[rows]
        x = [flat[m][rows] for m in (BASE, *(t.model for t in mix.terms))]
        f = [None if f is None else f[rows] for f in fields]
        k = len(mix.terms)
        masks = [_stored(t.keep, rows, columns) for t in mix.terms]
        first = torch.tensor(start * columns, device=out.device)
        plan = (mix.update.rule, deltas, tuple(_kind(t.keep) for t in mix.terms))
        further = [field for field in f[k + 1 :] if field is not None]
        y, top = run(plan, x, (numbers, first, masks), f[0], f[1 : k + 1], further)
        part.copy_(y)
        check = check + top + part.abs().amax().float() * 0
    return check


def _block(
    plan: tuple[Rule, tuple[bool, ...], tuple[str, ...]],
    x: Sequence[Tensor],
    given: tuple[Mapping[str, Tensor], Tensor, Sequence[Tensor | None]],
    factor: Tensor | None,
    factors: Sequence[Tensor | None],
    aux: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """One block of rows: the merged values in float32, and 0 (not finite if an input is not)."""
    rule, deltas, kinds = plan
    numbers, first, masks = given
    x0 = x[0].float()
    check = x0.sum() * 0
    index = None
    s = []
    for i, is_delta in enumerate(deltas):
        d = x[i + 1].float()
        check = check + d.sum() * 0
        d = d if is_delta else d - x0
        if kinds[i] != "all" and index is None:
            n = x0.numel()
            index = first + torch.arange(n, device=x0.device).view(x0.shape)
        d = torch.where(_kept(kinds[i], d, index, (numbers, i, masks[i])), d, 0.0)
        if kinds[i] == "unbiased":
            d = d / _probability(numbers, i, masks[i])
        d = d * numbers["rescale"][i]
        own = factors[i]
        s.append(d if own is None else d * own)
    weights = tuple(numbers["weight"][i] for i in range(len(s)))
    p = numbers["scalars"]
    if s or aux:
        u = rule(Rows(s), weights, Rows([*(a.float() for a in aux), x0]), p, slice(None))
    else:
        u = torch.zeros_like(x0)
    u = u * numbers["scale"] + x0 * numbers["base"]
    if factor is not None:
        u = u * (1 - factor * numbers["strength"])
    return u + x0, check


@cache
def _compiled(rule: Rule) -> Any:
    """The block function, fused; one for each update rule.

    What torch compiled is kept, and limited in number, by code object: so every rule gets its own.
    """
    code = _block.__code__.replace(co_name=f"_block_{rule.__name__}")
    return torch.compile(FunctionType(code, globals(), code.co_name), dynamic=True)


def _kept(
    kind: str,
    d: Tensor,
    index: Tensor | None,
    given: tuple[Mapping[str, Tensor], int, Tensor | None],
) -> Tensor:
    """Boolean mask of a block of a delta."""
    numbers, i, stored = given
    if kind == "all" or index is None:
        return torch.ones_like(d, dtype=torch.bool) if stored is None else stored
    if kind in ("coin", "ranked", "unbiased"):
        key = numbers["key"][i]
        hashes = hashed(index, key[0], key[1])
        if kind == "coin":
            return hashes < numbers["below"][i]
        return (hashes >> 8).float() * 2.0**-24 < _probability(numbers, i, stored)
    size, thresholds, last = d.abs(), numbers["threshold"][i], numbers["last"][i]
    kept = (size > thresholds[0]) | ((size == thresholds[0]) & (index <= last[0]))
    if kind == "band":
        inner = (size > thresholds[1]) | ((size == thresholds[1]) & (index <= last[1]))
        kept = kept & ~inner
    return kept


def _probability(numbers: Mapping[str, Tensor], i: int, ranks: Tensor | None) -> Tensor:
    """With which a RankCoin keeps an element."""
    assert ranks is not None
    ends = numbers["ends"][i]
    return ends[0] + ranks.float() * ends[1]


def keep_mask(keep: Keep, delta: Tensor) -> Tensor:
    """Boolean mask (*s) of a whole delta (*s)."""
    term = Mix((_Masked(keep),))  # type: ignore[arg-type]
    numbers = _numbers(term, delta.device)
    index = torch.arange(delta.numel(), device=delta.device).view(delta.shape)
    rows = slice(None)
    stored = _stored(keep, rows, delta.shape[-1] if delta.dim() else 1)
    stored = None if stored is None else stored.view(delta.shape)
    return _kept(_kind(keep), delta, index, (numbers, 0, stored))


class _Masked:
    """The part of a term that masks look at."""

    weight = rescale = 1.0

    def __init__(self, keep: Keep) -> None:
        self.keep = keep


def _kind(keep: Keep | None) -> str:
    if isinstance(keep, RankCoin):
        return "unbiased" if keep.unbiased else "ranked"
    names = {Largest: "largest", Band: "band", Coin: "coin", Bits: "all"}
    return "all" if keep is None else names[type(keep)]


def _stored(keep: Keep | None, rows: slice, columns: int) -> Tensor | None:
    if isinstance(keep, RankCoin):
        return keep.ranks.reshape(-1, columns)[rows]
    return keep.mask.reshape(-1, columns)[rows] if isinstance(keep, Bits) else None


def _numbers(mix: Mix, device: torch.device) -> dict[str, Tensor]:
    """Everything of a mix that changes between candidates, as tensors."""
    f32 = torch.float32
    threshold, last, key, below, ends = [], [], [], [], []
    for term in mix.terms:
        k = term.keep
        outer, inner = (k.outer, k.inner) if isinstance(k, Band) else (k, None)
        pair = [m if isinstance(m, Largest) else Largest(0.0, 0) for m in (outer, inner)]
        threshold.append([m.threshold for m in pair])
        last.append([m.last for m in pair])
        bits = k.key if isinstance(k, Coin | RankCoin) else 0
        key.append([bits & 0xFFFFFFFF, bits >> 32])
        below.append(k.below if isinstance(k, Coin) else 0)
        ends.append([k.low, (k.high - k.low) / 255] if isinstance(k, RankCoin) else [0.0, 0.0])
    numbers = {
        "weight": torch.tensor([t.weight for t in mix.terms], dtype=f32),
        "rescale": torch.tensor([t.rescale for t in mix.terms], dtype=f32),
        "scalars": torch.tensor(mix.scalars, dtype=f32),
        "scale": torch.tensor(mix.scale, dtype=f32),
        "base": torch.tensor(mix.base - 1.0, dtype=f32),
        "threshold": torch.tensor(threshold, dtype=f32),
        "last": torch.tensor(last, dtype=torch.int64),
        "key": torch.tensor(key, dtype=torch.int64),
        "below": torch.tensor(below, dtype=torch.int64),
        "ends": torch.tensor(ends, dtype=f32),
    }
    return {n: t.to(device, non_blocking=True) for n, t in numbers.items()}


def _field(factor: Tensor | None, like: Tensor) -> Tensor | None:
    """A broadcastable tensor as rows of the flattened tensor, without a copy where possible."""
    if factor is None:
        return None
    columns = like.shape[-1] if like.dim() else 1
    rows = like.numel() // max(columns, 1)
    wide = factor.reshape((1,) * (like.dim() - factor.dim()) + tuple(factor.shape))
    if all(n == 1 for n in wide.shape[:-1]):
        return wide.reshape(1, -1).expand(rows, -1)
    return wide.expand(*like.shape[:-1], wide.shape[-1]).reshape(rows, -1)
