"""Tensors of base and experts, held as the placement says: one `Store` a strategy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from evoaim.checkpoint import Weights
from evoaim.placement import WINDOW, Placement

_ALIGNED = 256  # bytes; where a tensor may begin in a staging buffer


class Store(Protocol):
    """Where a merge takes its tensors from, key by key: the base's first, then the experts'."""

    def host(self, model: str, key: str) -> Tensor:
        """Whole weights on the CPU, in the stored dtype."""

    def tensor(self, model: str, key: str) -> Tensor:
        """Whole weights on the device, in the stored dtype; good until the base's next."""


@dataclass(frozen=True)
class Resident:
    """Everything stays on the device after its first use; on the CPU as pages of the files.

    Args:
        read: model and key -> whole weights on the CPU.
        device: where tensors are wanted.
    """

    read: Callable[[str, str], Tensor]
    device: torch.device
    _held: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)

    def host(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        on_host = self.device.type == "cpu"
        return self.tensor(model, key) if on_host else self.read(model, key)

    def tensor(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        if (model, key) not in self._held:
            self._held[model, key] = self.read(model, key).to(self.device)
        return self._held[model, key]


@dataclass
class Mapped:
    """Tensors are read from their files at every use, and the files let go in windows.

    Args:
        models: base and experts.
        device: where tensors are wanted.
        window: bytes that are read before files are let go; at least the largest tensors of all
            models together, which are read in turns.
    """

    models: Mapping[str, Weights]
    device: torch.device
    window: int
    _views: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    _read: int = field(default=0, repr=False)

    def host(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        if (model, key) not in self._views:
            view = self.models[model].tensor(key)
            if self._read + view.nbytes > self.window:
                self._views.clear()
                self._read = 0
                for weights in self.models.values():
                    weights.release()
                view = self.models[model].tensor(key)
            self._views[model, key] = view
            self._read += view.nbytes
        return self._views[model, key]

    def tensor(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        return self.host(model, key).to(self.device)


@dataclass
class _Stage:
    """A staging buffer on the device, and the key whose tensors lie in it."""

    filled: torch.cuda.Event
    read: torch.cuda.Event  # everything has that read what was in it
    buffer: Tensor
    key: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, device: torch.device) -> "_Stage":
        """Without a buffer yet."""
        event = torch.cuda.Event
        nothing = torch.empty(0, dtype=torch.uint8, device=device)
        return cls(event(), event(), nothing)  # type: ignore[no-untyped-call]


class Pinned:
    """Page-locked host copies; while one key is merged, the next one's tensors are on their way.

    Two staging buffers take turns, so that no memory of the device is allocated per tensor.
    """

    def __init__(
        self, models: Mapping[str, Weights], device: torch.device, keys: Sequence[str]
    ) -> None:
        """`models` has the base first; `keys` are in the order in which every pass reads."""
        self._models, self._device, self._base = models, device, next(iter(models))
        self._following = dict(zip(keys, [*keys[1:], *keys[:1]], strict=True))
        self._host: dict[tuple[str, str], Tensor] = {}
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stages = (_Stage.empty(device), _Stage.empty(device))
        self._wanted: set[str] = set()  # the models that a pass reads
        self._current = ""

    def host(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        if (model, key) not in self._host:
            copy = self._models[model].tensor(key).clone()
            self._models[model].release()
            # registered, not `pin_memory()`, which rounds every size up to a power of two
            runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            torch.cuda.check_error(runtime.cudaHostRegister(copy.data_ptr(), copy.nbytes, 0))
            self._host[model, key] = copy
        return self._host[model, key]

    def tensor(self, model: str, key: str) -> Tensor:
        """See `Store`."""
        if key != self._current:
            if model != self._base:  # stacked layers: another layer than the base's
                return self.host(model, key).to(self._device)
            self._turn(key)
        stage = self._of(key)
        if model not in stage.tensors:  # only in a first pass, or with another recipe
            self._wanted.add(model)
            torch.cuda.synchronize(self._device)
            self._fill(stage, key)
        torch.cuda.current_stream(self._device).wait_event(stage.filled)
        return stage.tensors[model]

    def _of(self, key: str) -> _Stage:
        return next(s for s in self._stages if s.key == key)

    def _turn(self, key: str) -> None:
        """From one key to another, whose tensors are here already if it is the following one."""
        for stage in self._stages:
            if stage.key == self._current:
                stage.read.record(torch.cuda.current_stream(self._device))
        self._current = key
        for soon in (key, self._following[key]):
            if all(s.key != soon for s in self._stages):
                stages = (s for s in self._stages if s.key not in (key, self._following[key]))
                self._fill(next(stages), soon)

    def _fill(self, stage: _Stage, key: str) -> None:
        host = {model: self.host(model, key) for model in sorted(self._wanted)}
        ends = list(accumulate(-(-t.nbytes // _ALIGNED) * _ALIGNED for t in host.values()))
        needed = max(ends, default=0)
        if needed > stage.buffer.nbytes:
            torch.cuda.synchronize(self._device)
            stage.buffer = torch.empty(needed, dtype=torch.uint8, device=self._device)
        self._copies.wait_event(stage.read)
        tensors = {}
        with torch.cuda.stream(self._copies):
            for (model, source), start in zip(host.items(), [0, *ends], strict=False):
                flat = stage.buffer[start : start + source.nbytes].view(source.dtype)
                tensors[model] = flat.view(source.shape).copy_(source, non_blocking=True)
            stage.filled.record(self._copies)
        stage.key, stage.tensors = key, tensors


def open_store(placement: Placement, models: Mapping[str, Weights], keys: Sequence[str]) -> Store:
    """The store of a placement.

    Args:
        placement: the plan that was found to fit.
        models: the base first, and the experts, by the names that the store is asked for.
        keys: the order in which every pass reads.
    """
    device = placement.machine.device
    if placement.strategy == "pinned":
        return Pinned(models, device, keys)
    mapped = Mapped(models, device, max(WINDOW, placement.demand.row))
    if placement.strategy == "mapped":
        return mapped
    if device.type == "cpu":
        return Resident(lambda model, key: models[model].tensor(key), device)
    return Resident(mapped.host, device)  # an accelerator has its own copy: the files are let go
