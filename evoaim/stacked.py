"""Live models of another depth than the base's, for recipes that stack slices of layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from evoaim.blueprint import Blueprint, Place, refusing
from evoaim.checkpoint import Checkpoint
from search_spaces.dataflow import DataFlow, moved, restacked


@dataclass(frozen=True)
class Stacked:
    """A live model with the layers of a data flow, and where the output's tensors lie in it."""

    live: nn.Module
    places: Mapping[str, Place]

    @classmethod
    def of(
        cls, base: Checkpoint, blueprint: Blueprint, data: DataFlow, like: nn.Module
    ) -> "Stacked":
        """Build the model; its weights are undefined until a recipe is written into it.

        Args:
            base: the base's checkpoint.
            blueprint: of the base.
            data: the recipe's flow of tensors.
            like: the live model of the base, for dtype and device.

        Raises:
            ConfigError: transformers cannot build it.
        """
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        first = next(like.parameters())
        with refusing(base), no_init_weights(), torch.device(first.device):
            config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
            deeper = type(config).from_dict(restacked(config.to_dict(), data.layers))
            live = AutoModelForCausalLM.from_config(
                deeper, dtype=first.dtype, trust_remote_code=False
            )
        live.tie_weights()  # otherwise part of the initialization that was left out
        live.eval()
        live.requires_grad_(False)
        return cls(live, places_of(blueprint, data))


def places_of(blueprint: Blueprint, data: DataFlow) -> dict[str, Place]:
    """Output tensor -> where it lies in a model of the output's depth."""
    places = {}
    for tensor in data.anatomy.tensors:
        layer = data.anatomy.layer(tensor)
        if layer is None:
            places[tensor] = blueprint.places[tensor]
            continue
        origin = blueprint.places[moved(tensor, data.layers[layer])]
        places[tensor] = Place(moved(origin.parameter, layer), origin.index)
    return places
