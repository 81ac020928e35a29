"""The merge engine: a merger and one live model; a recipe becomes weights in one pass."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from evoaim.checkpoint import Checkpoint, Weights
from evoaim.errors import ConfigError
from evoaim.importance import Importance
from evoaim.kernel import Written
from evoaim.live import DTYPES, load_live
from evoaim.merger import Merger
from evoaim.stacked import Stacked
from search_spaces.anatomy import Anatomy
from search_spaces.dataflow import DataFlow
from search_spaces.recipe import Recipe

AHEAD = 32  # tensors that are planned while earlier ones are still being written

# Seconds after which a thread that writes gets Python's lock from the one that plans: with the
# default, 5 ms, each of hundreds of tensors would wait for as long as writing it takes.
SWITCH = 5e-4


@dataclass(frozen=True)
class MergeEngine:
    """Holds what every candidate needs; build it with `from_pretrained`."""

    merger: Merger
    dtype: torch.dtype  # of the live model
    _live: list[nn.Module] = field(default_factory=list, repr=False)  # at most one, once loaded
    _stacked: dict[tuple[int, ...], Stacked] = field(default_factory=dict, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        base: str,
        experts: Mapping[str, str],
        device: str = "auto",
        dtype: str = "float32",
        importance: Importance | None = None,
        placement: str = "auto",
    ) -> "MergeEngine":
        """Open the checkpoints, check that they belong together, load one live model.

        Args:
            base: folder or hub id.
            experts: short name -> folder or hub id of a checkpoint or a LoRA adapter.
            device: auto, cpu, cuda or cuda:N.
            dtype: of the live model: float32, bfloat16 or float16.
            importance: of the base (see `calibrate`); None: recipes with AIM are refused.
            placement: of base and experts: auto, device, pinned or mapped.

        Raises:
            ConfigError: a model is missing, refused, or does not fit the base, or there is not
                enough memory.
        """
        engine = cls.opened(base, experts, device, dtype, placement)
        engine.live  # noqa: B018 (loaded now, so that a model that cannot be is refused here)
        return engine if importance is None else engine.with_importance(importance)

    @classmethod
    def opened(
        cls, base: str, experts: Mapping[str, str], device: str, dtype: str, placement: str
    ) -> "MergeEngine":
        """The same without loading the live model, which is then loaded where it is first used.

        Raises:
            ConfigError: as `from_pretrained`.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}': one of {', '.join(DTYPES)} expected")
        merger = Merger.open(base, experts, device, placement, DTYPES[dtype])
        return cls(merger, DTYPES[dtype])

    @property
    def live(self) -> nn.Module:
        """The live model: whatever was materialized last, at first the base.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if not self._live:
            self._live.append(load_live(self.base, self.dtype, self.merger.device))
        return self._live[0]

    @property
    def base(self) -> Checkpoint:
        """The base model."""
        return self.merger.base

    @property
    def experts(self) -> Mapping[str, Weights]:
        """The experts by short name."""
        return self.merger.experts

    @property
    def importance(self) -> Importance | None:
        """The base's importance, if it was measured."""
        return self.merger.importance

    @property
    def anatomy(self) -> Anatomy:
        """Tensor names and depth of the base, for search spaces and gradients."""
        return self.merger.anatomy

    def with_importance(self, importance: Importance) -> "MergeEngine":
        """The same with the base's importance."""
        return replace(self, merger=self.merger.with_importance(importance))

    @contextmanager
    def materialize(self, recipe: Recipe) -> Iterator[nn.Module]:
        """Write the recipe's merged weights into the live model; they hold inside the block.

        Raises:
            SpaceError, ConfigError: the recipe does not fit the engine's models.
            CandidateError: the merged weights are not finite.
        """
        planner = self.merger.planner(recipe)
        target = self._target(planner.data)
        parameters = dict(target.live.named_parameters())
        written: dict[str, Written] = {}
        ahead: deque[Written] = deque()
        with _switching(), torch.no_grad():
            try:
                for key, place in target.places.items():
                    out = place.view(parameters[place.parameter])
                    written[key] = self.merger.merge_into(out, key, planner)
                    ahead.append(written[key])
                    if len(ahead) > AHEAD:  # what is computed for a tensor waits in memory
                        ahead.popleft().finite()
            finally:  # nothing writes into the model any more, also where a tensor was refused
                for part in ahead:
                    part.finite()
        self.merger.check_finite(written, planner)
        yield target.live

    def _target(self, data: DataFlow) -> Stacked:
        """The live model of a recipe's depth; one that is not the base's is kept for the next."""
        if data.layers == tuple(range(self.base.n_layers)):
            return Stacked(self.live, self.merger.blueprint.places)
        if data.layers not in self._stacked:
            self._stacked.clear()
            self._stacked[data.layers] = Stacked.of(
                self.base, self.merger.blueprint, data, self.live
            )
        return self._stacked[data.layers]


@contextmanager
def _switching() -> Iterator[None]:
    """Python's threads take turns quickly while the block runs."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
