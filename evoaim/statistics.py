"""What does not depend on the candidate, computed once per tensor and kept: thresholds and sums.

Densities on the grid of multiples of 1/1000 (the grid of the search spaces) are answered from one
sort or histogram per tensor and expert for the whole search; any other costs one pass, once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

import torch
from torch import Tensor

from evoaim.kernel import Coin, Keep, Largest, coin, keep_mask, mask_key

GRID = 1000
CHUNK = 1 << 18  # elements of one step of a histogram or inner product
T = TypeVar("T")


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one tensor over the base and the experts.

    Args:
        name: the tensor's name in the checkpoint.
        base: key of the base model.
        load: model key -> its tensor (*s).
    """

    name: str
    base: str
    load: Callable[[str], Tensor]
    _known: dict[tuple[object, ...], object] = field(default_factory=dict, repr=False)

    def delta(self, model: str) -> Tensor:
        """Expert minus base, flat, float32: (size,)."""
        x0 = self.load(self.base).reshape(-1).float()
        return self.load(model).reshape(-1).float().sub(x0)

    def largest(self, model: str, density: float) -> Largest | None:
        """Mask of the max(1, int(density * size)) largest |delta|; None keeps everything."""
        if density >= 1.0:
            return None
        if density <= 0.0:
            return Largest(float("inf"), -1)
        step = round(density * GRID)
        if step / GRID != density:
            return self._once(("largest", model, density), lambda: self._top(model, [density])[0])
        grid = [j / GRID for j in range(1, GRID)]
        return self._once(("largest", model), lambda: self._top(model, grid))[step - 1]

    def coin(self, model: str, density: float, seed: int) -> Coin | None:
        """Hashed mask that keeps each element with probability `density`; None keeps everything."""
        if density >= 1.0:
            return None
        who = self._once(("who", model), lambda: fingerprint(self.load(model)))
        return Coin(mask_key(seed, who, self.name), _below(max(density, 0.0)))

    def rescale(self, model: str, keep: Keep | None) -> float:
        """Sum of |d| over sum of |kept d|: the factor that restores the delta's L1 norm.

        As mergekit (not 1/density); 1 where either sum is below 1e-7.
        """
        if keep is None:
            return 1.0
        whole = self._once(("l1", model), lambda: float(self.delta(model).abs().sum(dtype=_F64)))
        kept = self._kept_l1(model, keep)
        return whole / kept if min(whole, kept) >= 1e-7 else 1.0

    def dot(self, a: str, b: str) -> float:
        """Inner product of two models' whole tensors (not deltas), accumulated in float64."""
        first, second = sorted((a, b))
        return self._once(("dot", first, second), lambda: self._dot(first, second))

    def _once(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]  # type: ignore[return-value]

    def _top(self, model: str, densities: list[float]) -> list[Largest]:
        """One mask per density; one stable sort, so that equal magnitudes stay in index order."""
        size = self.delta(model).abs()
        order = torch.sort(size, descending=True, stable=True)
        # int(), not a rounded product: the count that mergekit keeps for the same density
        kept = [max(1, int(d * len(size))) for d in densities]
        at = torch.tensor(kept, device=size.device) - 1
        ends = zip(order.values[at].tolist(), order.indices[at].tolist(), strict=True)
        return [Largest(threshold, last) for threshold, last in ends]

    def _kept_l1(self, model: str, keep: Keep) -> float:
        if isinstance(keep, Coin):
            step = round(keep.below / 2**32 * GRID)
            if _below(step / GRID) == keep.below:
                return self._once(("coins", model, keep.key), lambda: self._coins(model, keep.key))[
                    step
                ]

        def compute() -> float:
            d = self.delta(model)
            return float(d.mul_(keep_mask(keep, d, 0)).abs_().sum(dtype=_F64))

        return self._once(("kept", model, keep), compute)

    def _coins(self, model: str, key: int) -> list[float]:
        """Sum of |d| over the elements with a coin below j/GRID, for j = 0 .. GRID."""
        size = self.delta(model).abs()
        edges = torch.tensor([_below(j / GRID) for j in range(1, GRID)], device=size.device)
        sums = torch.zeros(GRID, dtype=_F64, device=size.device)
        for start in range(0, len(size), CHUNK):
            part = size[start : start + CHUNK].double()
            bins = torch.bucketize(coin(key, start, len(part), size.device), edges, right=True)
            sums += torch.bincount(bins, weights=part, minlength=GRID)
        return [0.0, *sums.cumsum(0).tolist()]

    def _dot(self, a: str, b: str) -> float:
        x, y = self.load(a).reshape(-1), self.load(b).reshape(-1)
        starts = range(0, len(x), CHUNK)
        parts = ((x[i : i + CHUNK].double(), y[i : i + CHUNK].double()) for i in starts)
        return float(sum(float(torch.dot(u, v)) for u, v in parts))


_F64 = torch.float64


def fingerprint(tensor: Tensor) -> str:
    """What tells one expert's tensor from another's: a hash of up to 1024 of its elements.

    Masks are keyed by content, not by a name, so that a recipe gives the same model under whatever
    names and paths its experts are given.
    """
    flat = tensor.reshape(-1)
    sample = flat[:: max(1, len(flat) // 1024)][:1024].float().cpu().contiguous()
    return sha256(sample.numpy().tobytes()).hexdigest()


def _below(density: float) -> int:
    """The coin value below which an element is kept."""
    return int(density * 2**32)
