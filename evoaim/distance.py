"""How far a merged model is from the base: an objective without documents."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoaim.blueprint import Place
from evoaim.engine import MergeEngine
from evoaim.fitness_config import DISTANCE as METRIC
from evoaim.fitness_config import WEIGHTS as TASK
from evoaim.kernel import BASE
from fitness.errors import FitnessError, ScoringError, unknown
from fitness.scorers import check_panel, known_metric
from fitness.types import DocumentScores, Metric, Panel, Scores, Split

DOCUMENT = (TASK,)  # the hash of the one document that there is, the same in both splits
CHUNK = 1 << 18  # elements a thread: what is computed from them stays in its cache
DEVICE_CHUNK = 1 << 24


@dataclass(frozen=True)
class DistanceToBase:
    """A scorer of `distance_to_base`: ||merged - base|| / ||base|| over all weights together.

    The base is taken as the live model would hold it, in its dtype, so that the base's own distance
    is 0. Weights count once if they are tied; buffers, which a merge takes from the base, do not
    count.

    Args:
        live: gives the engine's live model.
        places: checkpoint key -> where it lies in the live model.
        base: checkpoint key -> the base's tensor, in the stored dtype.
    """

    live: Callable[[], nn.Module]
    places: Mapping[str, Place]
    base: Callable[[str], Tensor]
    _norm: list[float] = field(default_factory=list, repr=False)  # of the base, once known

    @classmethod
    def of(cls, engine: MergeEngine) -> "DistanceToBase":
        """The scorer of an engine's candidates."""
        merger = engine.merger
        # staged tensors come with those of all experts, which nobody asks for here
        read = merger.store.host if merger.placement.strategy == "pinned" else merger.store.tensor
        return cls(lambda: engine.live, merger.blueprint.places, lambda key: read(BASE, key))

    @property
    def tasks(self) -> tuple[str, ...]:
        """`weights`."""
        return (TASK,)

    def leaves(self, name: str) -> tuple[str, ...]:
        """See `fitness.scorers.Scorer`."""
        self._check(name)
        return (name,)

    def documents(self, task: str, split: Split) -> tuple[str, ...]:  # noqa: ARG002 the same in both
        """One: the weights."""
        self._check(task)
        return DOCUMENT

    def sizes(self, split: Split) -> dict[str, int]:
        """See `fitness.scorers.Scorer`."""
        return {TASK: len(self.documents(TASK, split))}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """`distance_to_base`, exactly known."""
        self._check(task)
        return (Metric(TASK, METRIC, "minimize", "exact"),)

    def metric(self, task: str, name: str | None = None) -> Metric:
        """See `fitness.scorers.Scorer`."""
        return known_metric(self, task, name)

    def definition(self, task: str) -> dict[str, Any]:
        """Nothing but the base decides it."""
        self._check(task)
        return {}

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """The distance, as the total of one document of weight 1.

        Args:
            model: what `MergeEngine.materialize` yields.
            panel: document 0 of `weights`, or nothing.
            split: the same for both.

        Raises:
            FitnessError: the panel is another.
            ScoringError: the model has other layers than the base, or weights that are not finite.
        """
        check_panel(self, panel, split)
        if not panel.documents:
            return {}
        n = len(panel.documents[TASK])
        total = np.full(n, self._distance(model) if n else 0.0)
        return {f"{TASK}/{METRIC}": DocumentScores(DOCUMENT[:n], total, np.ones(n))}

    def _distance(self, model: Any) -> float:
        if model is not self.live():
            raise ScoringError(
                f"{METRIC} is not defined for a model that stacks other layers than the base's"
            )
        parameters = dict(model.named_parameters())
        apart, norm = [], []
        with torch.no_grad():
            for key, place in self.places.items():
                merged = place.view(parameters[place.parameter])
                base = self.base(key).to(merged.device, merged.dtype, non_blocking=True)
                for x, y in zip(_chunks(merged), _chunks(base), strict=True):
                    y = y.float()
                    apart.append(_square(x.float() - y))
                    if not self._norm:
                        norm.append(_square(y))
        if not self._norm:
            self._norm.append(math.sqrt(torch.stack(norm).sum()))
        distance = math.sqrt(torch.stack(apart).sum()) / self._norm[0]
        if not math.isfinite(distance):
            raise ScoringError("the merged weights are not finite")
        return distance

    def _check(self, task: str) -> None:
        if task != TASK:
            raise FitnessError(unknown("task", task, (TASK,)))


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    flat = tensor.reshape(-1)
    on_host = tensor.device.type == "cpu"
    return torch.split(flat, CHUNK * torch.get_num_threads() if on_host else DEVICE_CHUNK)


def _square(x: Tensor) -> Tensor:
    """Sum of squares: float32 within a chunk, float64 for what is summed over chunks."""
    return torch.dot(x, x).double()
