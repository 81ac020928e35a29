"""What an architecture does with a checkpoint's tensors, known without loading any weight."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evoaim.checkpoint import Checkpoint
from evoaim.conversion import Block, arranged
from evoaim.errors import ConfigError

# Packed experts of transformers that are stored (experts, in, out) without saying so.
_TRANSPOSED_EXPERTS = ("Llama4TextExperts",)


@dataclass(frozen=True)
class Place:
    """Where a checkpoint tensor lies: it is `parameter[index]` of the live model."""

    parameter: str
    index: tuple[int | slice, ...] = ()  # () is all of the parameter

    def view(self, parameter: Tensor) -> Tensor:
        """The part of the live parameter that holds the checkpoint tensor, same shape, no copy."""
        return parameter[self.index]


@dataclass(frozen=True)
class Blueprint:
    """The architecture of a checkpoint: every one of its tensors is placed or copied.

    Args:
        name: of the model, as the user gave it.
        shapes: checkpoint key -> shape, of the placed tensors, in the checkpoint's order.
        places: checkpoint key -> where it lies in the live model; together they fill every
            parameter exactly once.
        copied: checkpoint key -> why it is no parameter of its own; a merge takes the base's.
        axes: checkpoint key -> axis of the input channels: -1, or -2 where inputs come first, as in
            GPT-2's Conv1D (in, out) and packed experts (experts, in, out).
        kinds: checkpoint key -> embedding, tied (also a head that shares the embedding), head,
            linear, experts, norm, bias, convolution or other.
        tied: live parameter name -> the parameter whose storage it shares.
        n_layers: number of decoder blocks.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, Place]
    copied: Mapping[str, str]
    axes: Mapping[str, int]
    kinds: Mapping[str, str]
    tied: Mapping[str, str]
    n_layers: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Blueprint":
        """Read the checkpoint's config and headers; no weight is loaded.

        Raises:
            ConfigError: transformers cannot build the architecture, a parameter lacks its tensor, a
                tensor has no place, or is converted on loading in a way that is not supported.
        """
        model = _meta_model(checkpoint)
        names = {id(p): n for n, p in model.named_parameters(remove_duplicate=True)}
        every = dict(model.named_parameters(remove_duplicate=False))
        tied = {n: names[id(p)] for n, p in every.items() if names[id(p)] != n}
        filled, copied = _filled(model, checkpoint, tied)
        known = roles(model)
        found: dict[str, tuple[Place, int, str]] = {}
        for parameter in names.values():
            block = filled.get(parameter)
            if block is None or block.shape != tuple(every[parameter].shape):
                raise ConfigError(_missing(checkpoint, parameter, every[parameter], block))
            for key, index in block.pieces:
                whole = all(i == slice(0, n) for i, n in zip(index, block.shape, strict=True))
                found[key] = (Place(parameter, () if whole else index), *known[parameter])
        keys = [k for k in checkpoint.shapes if k in found]
        return cls(
            name=checkpoint.name,
            shapes={k: checkpoint.shapes[k] for k in keys},
            places={k: found[k][0] for k in keys},
            copied=copied,
            axes={k: found[k][1] for k in keys},
            kinds={k: found[k][2] for k in keys},
            tied=tied,
            n_layers=checkpoint.n_layers,
        )

    @cached_property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """Live parameter -> keys of the tensors that fill it, in the checkpoint's order."""
        keys: dict[str, tuple[str, ...]] = {}
        for key, place in self.places.items():
            keys[place.parameter] = (*keys.get(place.parameter, ()), key)
        return keys


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and advice, restored afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def refusing(checkpoint: Checkpoint) -> Iterator[None]:
    """Whatever a stranger's config makes transformers raise, as a ConfigError."""
    from huggingface_hub.errors import StrictDataclassError

    wrong: tuple[type[Exception], ...] = (ValueError, TypeError, LookupError, RuntimeError)
    wrong += (OSError, ImportError, ArithmeticError, AttributeError, StrictDataclassError)
    try:
        with quiet():
            yield
    except wrong as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model '{checkpoint.name}': transformers cannot load it as a causal LM ({reason})"
        ) from None


def _meta_model(checkpoint: Checkpoint) -> Any:
    """The module tree with shapes and ties, but no storage."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with refusing(checkpoint), torch.device("meta"):
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _filled(
    model: Any, checkpoint: Checkpoint, tied: Mapping[str, str]
) -> tuple[dict[str, Block], dict[str, str]]:
    """Parameter -> how checkpoint tensors fill it; key -> why it fills none."""
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=True)}
    filled: dict[str, Block] = {}
    copied: dict[str, str] = {}
    twins: dict[str, Block] = {}
    for name, block in arranged(model, checkpoint).items():
        if name in parameters:
            filled[name] = block
        elif name in tied:
            twins[name] = block
        else:
            copied |= dict.fromkeys(block.keys, _reason(model, checkpoint, name, block))
    for name, block in twins.items():  # a head stored beside, or instead of, the embedding
        if tied[name] in filled:
            copied |= dict.fromkeys(block.keys, f"tied to '{tied[name]}', which is merged")
        else:
            filled[tied[name]] = block
    return filled, copied


def _reason(model: Any, checkpoint: Checkpoint, name: str, block: Block) -> str:
    """Why a checkpoint tensor that is no parameter may be left as it is."""
    buffers = {n for n, _ in model.named_buffers()}
    if {name, f"{model.base_model_prefix}.{name}"} & buffers:
        return "a buffer of the model, not a weight"
    ignored = {r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}
    ignored |= set(model._keys_to_ignore_on_load_unexpected or ())
    if any(re.search(pattern, name) for pattern in ignored):
        return "not used by the architecture"
    raise ConfigError(
        f"model '{checkpoint.name}': tensor '{block.keys[0]}' is no weight of a "
        f"{type(model).__name__}; is config.json from another model?"
    )


def _missing(checkpoint: Checkpoint, name: str, parameter: Tensor, block: Block | None) -> str:
    found = f"; '{block.keys[0]}' gives {list(block.shape)}" if block else ""
    return (
        f"model '{checkpoint.name}': parameter '{name}' {list(parameter.shape)} has no tensor of "
        f"that name and shape in the checkpoint{found}"
    )


def roles(model: nn.Module) -> dict[str, tuple[int, str]]:
    """Live parameter -> (axis of its input channels, kind), as in `Blueprint`."""
    from transformers.pytorch_utils import Conv1D

    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(getattr(model, "get_output_embeddings", lambda: None)(), "weight", None)
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found: dict[str, tuple[int, str]] = {}
    for path, module in model.named_modules():
        inputs_first = isinstance(module, Conv1D) or getattr(module, "is_transposed", False)
        inputs_first = inputs_first or type(module).__name__ in _TRANSPOSED_EXPERTS
        for leaf, p in module.named_parameters(recurse=False):
            kind = _kind(module, leaf, p)
            if id(p) in tables:
                kind = "tied" if uses[id(p)] > 1 else "embedding"
            elif p is head:
                kind = "head"
            axis = -2 if inputs_first and kind in ("linear", "experts") else -1
            found[f"{path}.{leaf}" if path else leaf] = (axis, kind)
    return found


def _kind(module: nn.Module, leaf: str, parameter: Tensor) -> str:
    if leaf.endswith("bias"):
        return "bias"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "convolution"
    if parameter.dim() == 3:
        return "experts"
    if leaf == "weight" and parameter.dim() in (1, 2):
        return "linear" if parameter.dim() == 2 else "norm"
    return "other"
