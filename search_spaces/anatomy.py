"""All that recipes and spaces know about a model: its tensors' names, depths, module types."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search_spaces.errors import SpaceError, unknown

# Module type -> substrings of tensor names, over the architectures of transformers. mergekit's
# filters are substring tests too, so a type can be written into a recipe as a filter.
MODULE_TYPES: Mapping[str, tuple[str, ...]] = {
    "attn": (
        ".self_attn.",
        ".self_attention.",
        ".attention.",
        ".attn.",
        ".linear_attn.",  # Qwen3-Next
        ".temporal_block.",  # RecurrentGemma
    ),
    "mlp": (
        ".mlp.",
        ".block_sparse_moe.",
        ".feed_forward.",
        ".ffn.",
        ".mlp_block.",  # RecurrentGemma
        ".shared_mlp.",  # GraniteMoeHybrid
        ".fc1.",  # OPT has no module around these two
        ".fc2.",
    ),
}

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True)
class Anatomy:
    """Tensor names in checkpoint order and the number of layers (decoder blocks)."""

    tensors: tuple[str, ...]
    n_layers: int

    @classmethod
    def of(cls, tensors: Iterable[str], n_layers: int) -> "Anatomy":
        """Anatomy of a checkpoint with these tensor names."""
        return cls(tuple(tensors), n_layers)

    @property
    def layer_prefix(self) -> str:
        """What every tensor inside the layers has in its name, such as `model.layers.`."""
        for tensor in self.tensors:
            if self.layer(tensor) is not None:
                found = _LAYER.search(tensor)
                return tensor[: found.start(1)] if found else ""
        return ""

    def layer(self, tensor: str) -> int | None:
        """Index of the block that holds the tensor: the first number in its path; None outside."""
        found = _LAYER.search(tensor)
        return int(found[1]) if found and int(found[1]) < self.n_layers else None

    def depth(self, tensor: str) -> float:
        """Position t in [0, 1] at which gradients are read.

        As mergekit: i/(L-1) in layer i of L, 1 in a lone layer, 0 outside the layers (embeddings,
        final norm and head alike).
        """
        layer = self.layer(tensor)
        if layer is None:
            return 0.0
        return layer / (self.n_layers - 1) if self.n_layers > 1 else 1.0

    def filters(self, module_type: str) -> tuple[str, ...]:
        """The substrings that select a module type in this model.

        Raises:
            SpaceError: the type is unknown, or no tensor of this model belongs to it.
        """
        if module_type not in MODULE_TYPES:
            raise SpaceError(unknown("module type", module_type, MODULE_TYPES))
        found = tuple(s for s in MODULE_TYPES[module_type] if any(s in t for t in self.tensors))
        if not found:
            raise SpaceError(
                f"module type '{module_type}': no tensor name of this model contains any of "
                f"{', '.join(MODULE_TYPES[module_type])}; leave it out of module_types"
            )
        return found
