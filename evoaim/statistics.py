"""What does not depend on the candidate, computed once per tensor and kept: thresholds and sums.

Densities on the grid of multiples of 1/1000 (the grid of the search spaces) are answered from
counts made once per tensor and expert for the whole search; any other costs one pass, once.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from evoaim.kernel import BASE, Band, Bits, Coin, Keep, Largest, RankCoin, mask_key
from evoaim.kernel.native import coin_sums, kept_sum
from evoaim.selection import GRID, Selected, Selection, grid_counts, grid_place, largest
from evoaim.whole import Whole

CHUNK = 1 << 16  # elements of one step of a reduction
CPU = torch.device("cpu")
RECENT = 64  # answers off the grid that are kept
EXACT = 1 << 16  # elements up to which the L1 norm after ranked coins is that of the draw
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor over the base and the experts.

    Args:
        name: the tensor's key in the base's checkpoint.
        load: model key (BASE or a short name) -> its tensor (*s) on the CPU.
        delta_of: model key -> its float32 delta (*s) if it is stored as one (LoRA), else None.
        whole: the model that the tensor is part of.
        kind: what the tensor is to the architecture: linear, norm, embedding, bias, ...
        axis: of its input channels; see `Blueprint.axes`.
        device: where the kernel runs, and large prepared tensors are kept.
        measured: (model key, kind) -> the model's statistic on text for this tensor, on the CPU;
            None if there is none for such tensors. See `evoaim.data_statistics`.
    """

    name: str
    load: Callable[[str], Tensor]
    delta_of: Callable[[str], Tensor | None] = lambda model: None  # noqa: ARG005
    whole: Whole = field(default_factory=Whole)
    kind: str = "linear"
    axis: int = -1
    device: torch.device = CPU
    measured: Callable[[str, str], Tensor | None] = lambda model, kind: None  # noqa: ARG005
    _known: dict[Hashable, object] = field(default_factory=dict, repr=False)
    _recent: "OrderedDict[Hashable, object]" = field(default_factory=OrderedDict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.once("shape", lambda: tuple(self.load(BASE).shape))

    def delta(self, model: str) -> Tensor:
        """Expert minus base (*s), float32, a new tensor."""
        known = self.delta_of(model)
        if known is not None:
            return known.to(torch.float32, copy=True)
        return self.load(model).float() - self.load(BASE).float()

    def largest(self, model: str, density: float) -> Largest | None:
        """Mask of the max(1, int(density * size)) largest |delta|; None keeps everything."""
        if density >= 1.0:
            return None
        if density <= 0.0:
            return Largest(float("inf"), -1)
        return self._top(model, max(1, int(density * self.size))).keep

    def band(self, model: str, density: float, dropped: float) -> Keep | None:
        """Mask without the int(dropped * size) largest |delta| that keeps int(density * size).

        As mergekit: at density 1 everything is kept, and `dropped` gives way to the density.
        """
        if density >= 1.0:
            return None
        kept = int(density * self.size)
        inner = min(int(dropped * self.size), self.size - kept)
        if kept == 0:
            return Largest(float("inf"), -1)
        whole = kept + inner == self.size
        outer = Largest(0.0, self.size) if whole else self._top(model, kept + inner).keep
        return Band(outer, self._top(model, inner).keep) if inner else outer

    def coin(self, model: str, density: float, seed: int) -> Coin | None:
        """Hashed mask that keeps each element with probability `density`; None keeps everything."""
        if density >= 1.0:
            return None
        return Coin(self._key(model, seed), below(max(density, 0.0)))

    def ranked(self, model: str, low: float, high: float, seed: int) -> RankCoin:
        """Hashed mask whose probability grows with |delta| within a row, from low to high."""
        return RankCoin(self._key(model, seed), self.ranks(model), low, high)

    def ranks(self, model: str) -> Tensor:
        """Rank of every |delta| within its row, 0 (smallest) to 255 (largest): (*s) uint8."""
        return self.once(("ranks", model), lambda: _row_ranks(self, model).to(self.device))

    def rescale(self, model: str, keep: Keep | None) -> float:
        """Sum of |d| over sum of |kept d|: the factor that restores the delta's L1 norm.

        As mergekit (not 1/density); 1 where either sum is below 1e-7. For a RankCoin above EXACT
        elements it is the expected sum; a draw's differs from it by about 1/sqrt(kept elements).
        """
        if keep is None:
            return 1.0
        whole, kept = self.l1(model), self._kept_l1(model, keep)
        return whole / kept if min(whole, kept) >= 1e-7 else 1.0

    def l1(self, model: str) -> float:
        """Sum of |delta|, in float64."""
        return self.once(("l1", model), lambda: float(sum(self._chunk_l1(model))))

    def dot(self, a: str, b: str) -> float:
        """Inner product of two models' whole tensors (not deltas), accumulated in float64."""
        first, second = sorted((a, b))
        return self.once(("dot", first, second), lambda: self._dot(first, second, self._whole))

    def delta_dot(self, a: str, b: str) -> float:
        """Inner product of two experts' deltas, accumulated in float64."""
        first, second = sorted((a, b))
        return self.once(("ddot", first, second), lambda: self._dot(first, second, self.chunk))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """An artefact that every candidate needs: computed at first use and kept."""
        if key not in self._known:
            self._known[key] = compute()
        return cast(T, self._known[key])

    def recent(self, key: Hashable, compute: Callable[[], T]) -> T:
        """An artefact that depends on genes: the last few are kept."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return cast(T, self._recent[key])
        value = compute()
        self._recent[key] = value
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return value

    def latest(self, slot: Hashable, key: Hashable, compute: Callable[[], T]) -> T:
        """A large artefact that depends on genes: only the last one of its slot is kept."""
        slot = ("latest", slot)
        if slot in self._known and cast(tuple[Hashable, T], self._known[slot])[0] == key:
            return cast(tuple[Hashable, T], self._known[slot])[1]
        self._known.pop(slot, None)  # before the next one is made: never two
        value = compute()
        self._known[slot] = (key, value)
        return value

    def chunk(self, model: str, start: int, stop: int) -> Tensor:
        """Elements start .. stop-1 of the flat delta: float32."""
        known = self.delta_of(model)
        if known is not None:
            return known.reshape(-1)[start:stop].float()
        return self._whole(model, start, stop) - self._whole(BASE, start, stop)

    def _whole(self, model: str, start: int, stop: int) -> Tensor:
        return self.load(model).reshape(-1)[start:stop].float()

    def _key(self, model: str, seed: int) -> int:
        who = self.once(("who", model), lambda: fingerprint(self.load(model)))
        return mask_key(seed, who, self.name)

    def _top(self, model: str, count: int) -> Selected:
        """Mask of the `count` largest |delta|."""
        place = grid_place(count, self.size)
        if place is None:
            return self.recent(("top", model, count), lambda: self._select(model, [count]).at(0))
        table = self.once(("top", model), lambda: self._select(model, grid_counts(self.size)))
        return table.at(place)

    def _select(self, model: str, counts: list[int]) -> Selection:
        return largest(
            lambda start, stop: self.chunk(model, start, stop).abs().numpy(), self.size, counts
        )

    def _kept_l1(self, model: str, keep: Keep) -> float:
        if isinstance(keep, Coin):
            step = round(keep.below / 2**32 * GRID)
            if below(step / GRID) == keep.below:
                key = ("coins", model, keep.key)
                return self.once(key, lambda: self._coins(model, keep.key))[step]
        if isinstance(keep, RankCoin) and self.size > EXACT:
            sums = self.once(("rank sums", model), partial(self._rank_sums, model))
            return float(sums @ np.linspace(keep.low, keep.high, 256))
        if isinstance(keep, Bits):  # large, and no two are equal
            return self.latest(("kept", model), keep, lambda: self._masked_l1(model, keep))
        same = (keep.key, keep.low, keep.high) if isinstance(keep, RankCoin) else keep
        return self.recent(("kept", model, same), lambda: self._masked_l1(model, keep))

    def _rank_sums(self, model: str) -> Any:
        """Sum of |d| over the elements of each rank: (256,) float64."""
        sums, ranks = np.zeros(256), self.ranks(model).reshape(-1).cpu()
        for at in range(0, self.size, CHUNK):
            stop = min(at + CHUNK, self.size)
            d = self.chunk(model, at, stop).abs().numpy()
            sums += np.bincount(ranks[at:stop].numpy(), d, 256)
        return sums

    def _masked_l1(self, model: str, keep: Keep) -> float:
        if isinstance(keep, RankCoin):
            keep = replace(keep, ranks=keep.ranks.cpu())
        if isinstance(keep, Bits):
            keep = Bits(keep.mask.cpu())
        parts = range(0, self.size, CHUNK)
        chunks = ((at, self.chunk(model, at, min(at + CHUNK, self.size))) for at in parts)
        return sum(kept_sum(d, at, keep) for at, d in chunks)

    def _coins(self, model: str, key: int) -> list[float]:
        """Sum of |d| over the elements with a coin below j/GRID, for j = 0 .. GRID."""
        edges = np.array([below(j / GRID) for j in range(GRID + 1)], np.uint64)
        sums = np.zeros(GRID)
        for at in range(0, self.size, CHUNK):
            coin_sums(self.chunk(model, at, min(at + CHUNK, self.size)), at, key, edges, sums)
        return [0.0, *sums.cumsum().tolist()]

    def _chunk_l1(self, model: str) -> Any:
        for at in range(0, self.size, CHUNK):
            d = self.chunk(model, at, min(at + CHUNK, self.size))
            yield float(d.abs().sum(dtype=torch.float64))

    def _dot(self, a: str, b: str, part: Callable[[str, int, int], Tensor]) -> float:
        total = 0.0
        for at in range(0, self.size, CHUNK):
            x = part(a, at, min(at + CHUNK, self.size)).double()
            y = x if a == b else part(b, at, min(at + CHUNK, self.size)).double()
            total += float(torch.dot(x, y))
        return total


def _row_ranks(tensor: TensorStatistics, model: str) -> Tensor:
    size = tensor.delta(model).abs_()
    rows = size.reshape(-1, size.shape[-1] if size.dim() else 1)
    n, out = rows.shape[1], torch.empty(rows.shape, dtype=torch.uint8)
    steps = (torch.arange(n) * (255 / max(n - 1, 1))).round().to(torch.uint8)
    for i, row in enumerate(rows):  # row by row: the indices of a sort take twice the memory
        out[i, torch.argsort(row, stable=True)] = steps
    return out.view(size.shape)


def fingerprint(tensor: Tensor) -> str:
    """What tells one expert's tensor from another's: a hash of up to 1024 of its elements.

    Masks are keyed by content, not by a name, so that a recipe gives the same model under whatever
    names and paths its experts are given.
    """
    flat = tensor.reshape(-1)
    stride = max(1, len(flat) // 1024) | 1  # odd: it meets every column of a power of two
    sample = flat[::stride][:1024].float().cpu().contiguous()
    return sha256(sample.numpy().tobytes()).hexdigest()


def below(density: float) -> int:
    """The coin value below which an element is kept."""
    return int(density * 2**32)
