"""Statistics over a whole model: norms and thresholds that no single tensor can know."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from evoaim.errors import ConfigError
from evoaim.kernel import Largest
from evoaim.selection import Selected, Selection, grid_counts, grid_place, largest

if TYPE_CHECKING:
    from evoaim.statistics import TensorStatistics

T = TypeVar("T")
Values = Callable[["TensorStatistics", int, int], Any]


@dataclass(frozen=True, eq=False)
class Whole:
    """All merged tensors of a model, by key, in the checkpoint's order."""

    tensors: Callable[[], Mapping[str, "TensorStatistics"]] = dict
    _known: dict[Hashable, object] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """An artefact of the whole model: computed at first use and kept."""
        if key not in self._known:
            self._known[key] = compute()
        return cast(T, self._known[key])

    def largest(self, model: str, density: float, name: str) -> Largest | None:
        """Mask of tensor `name` if the int(density * size) largest of all |delta| are kept.

        Raises:
            ConfigError: the tensor is none of the model's.
        """
        if density >= 1.0:
            return None
        if density <= 0.0:
            return Largest(float("inf"), -1)
        count = max(1, int(density * self.size))
        mask = self.top(("largest", model), count, partial(magnitudes, model)).keep
        offset = self._offsets().get(name)
        if offset is None:
            raise ConfigError(
                f"tensor '{name}' of a stacked model is none of the base's, over which the largest "
                "of a whole model are sought; use `scope: tensor`"
            )
        return Largest(mask.threshold, mask.last - offset)

    @property
    def size(self) -> int:
        """Number of elements of all tensors."""
        return self.once("size", lambda: sum(t.size for t in self.tensors().values()))

    def top(self, key: Hashable, count: int, values: Values) -> Selected:
        """Mask of the `count` largest values of the whole model; its index runs over all tensors.

        Counts on the grid of densities are answered from one preparation under `key`.

        Args:
            key: names the values.
            count: in [1, size].
            values: (tensor, start, stop) -> non-negative float32 values of elements start .. stop-1
                of the flat tensor, as a numpy array.
        """
        place = grid_place(count, self.size)
        if place is None:
            return self.select(key, (count,), values).at(0)
        table = self.once((key, "grid"), lambda: self._select(values, grid_counts(self.size)))
        return table.at(place)

    def select(self, key: Hashable, counts: tuple[int, ...], values: Values) -> Selection:
        """As `top`, for several counts in one preparation of their own."""
        return self.once((key, counts), lambda: self._select(values, counts))

    def delta_dot(self, a: str, b: str) -> float:
        """Inner product of two experts' whole deltas."""
        first, second = sorted((a, b))

        def compute() -> float:
            return sum(t.delta_dot(first, second) for t in self.tensors().values())

        return self.once(("ddot", first, second), compute)

    def _offsets(self) -> dict[str, int]:
        def compute() -> dict[str, int]:
            sizes = {name: t.size for name, t in self.tensors().items()}
            return dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))

        return self.once("offsets", compute)

    def _select(self, values: Values, counts: Sequence[int]) -> Selection:
        tensors, offsets = list(self.tensors().values()), [*self._offsets().values()]

        def chunk(start: int, stop: int) -> Any:
            parts, at, i = [], start, bisect_right(offsets, start) - 1
            while at < stop:
                low, high = at - offsets[i], min(stop - offsets[i], tensors[i].size)
                if low < high:
                    parts.append(values(tensors[i], low, high))
                at, i = offsets[i] + high, i + 1
            return np.concatenate(parts)

        return largest(chunk, self.size, counts)


def magnitudes(model: str, tensor: "TensorStatistics", start: int, stop: int) -> Any:
    """|delta| of a stretch of a tensor, for `Whole.top`."""
    return tensor.chunk(model, start, stop).abs().numpy()
