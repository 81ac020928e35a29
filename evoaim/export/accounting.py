"""What becomes of every tensor of the base: merged, copied with a reason, or left out with one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.export.shards import Slot
from evoaim.kernel import BASE
from evoaim.live import quiet
from evoaim.merger import Merger
from evoaim.plan import Planner
from search_spaces.dataflow import DataFlow, restacked

_LEFT_OUT = "tied to"  # how the blueprint's reasons begin for a head that is another tensor's twin


@dataclass(frozen=True)
class Accounts:
    """The tensors of the output, and those of the base that are not merged.

    Args:
        slots: key of the output -> shape and dtype, in the order of merging.
        copied: key of the output -> key of the base whose tensor it is; all others are merged.
        reasons: key of the base -> why it is copied or left out.
        config: what config.json says.
    """

    slots: Mapping[str, Slot]
    copied: Mapping[str, str]
    reasons: Mapping[str, str]
    config: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the exported folder."""
        kept = set(self.copied.values())
        return {
            "merged": len(self.slots) - len(self.copied),
            "copied": {k: r for k, r in self.reasons.items() if k in kept},
            "left_out": {k: r for k, r in self.reasons.items() if k not in kept},
        }

    def check(self, folder: Path) -> None:
        """Whether a written checkpoint holds what was announced, and transformers can place it.

        Raises:
            ConfigError: it does not.
        """
        written = Checkpoint.open(str(folder))
        shapes = {key: slot.shape for key, slot in self.slots.items()}
        odd = sorted(set(shapes.items()) ^ set(written.shapes.items()))
        if odd:
            raise ConfigError(f"export: '{odd[0][0]}' was not written as announced")
        Blueprint.of(written)


def account(merger: Merger, planner: Planner, dtype: torch.dtype) -> Accounts:
    """Account for every tensor of the base and of the output.

    Raises:
        ConfigError: a tensor of the base is neither merged nor known to be none of the weights.
    """
    base, reasons, flow = merger.models[BASE], merger.blueprint.copied, planner.data
    lost = sorted(set(base.shapes) - set(merger.blueprint.places) - set(reasons))
    if lost:
        raise ConfigError(f"model '{base.name}': tensor '{lost[0]}' would be lost")
    merged = {key: flow.flow(key).source(BASE) for key in flow.anatomy.tensors}
    kept = [key for key, reason in reasons.items() if not reason.startswith(_LEFT_OUT)]
    copied = {new: key for key in kept for new in _placed(key, merger, flow)}
    slots = {key: Slot(base.shapes[source], dtype) for key, source in merged.items()}
    for key, source in copied.items():
        slots[key] = Slot(base.shapes[source], base.tensor(source).dtype)
    return Accounts(slots, copied, reasons, _config(merger, flow))


def _placed(key: str, merger: Merger, flow: DataFlow) -> Iterator[str]:
    """The names in the output of a tensor of the base that is copied; several in stacked layers."""
    layer = merger.anatomy.layer(key)
    if layer is None:
        yield key
    for new, old in enumerate(flow.layers if layer is not None else ()):
        if old == layer:
            yield re.sub(r"(^|\.)\d+\.", rf"\g<1>{new}.", key, count=1)


def _config(merger: Merger, flow: DataFlow) -> Mapping[str, Any]:
    config, base = merger.models[BASE].config, merger.base
    if flow.layers == tuple(range(base.n_layers)):
        return config
    from transformers import AutoConfig

    with quiet():  # completed: a layer pattern that is only implied would not follow the layers
        whole = AutoConfig.from_pretrained(base.folder, trust_remote_code=False).to_dict()
    changed = {k: v for k, v in config.items() if base.config.get(k) != v}  # the vocabulary
    return restacked(whole | changed, flow.layers)
