"""The live model: a transformers module whose parameters are overwritten candidate by candidate."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from evoaim.blueprint import Blueprint as Blueprint
from evoaim.blueprint import quiet as quiet
from evoaim.blueprint import refusing
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: not a device name, or no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}': one of auto, cpu, cuda, cuda:N expected") from None
    n = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= n):
        raise ConfigError(
            f"device '{name}': not available; this machine has cpu and {n} CUDA devices"
        )
    return device


def load_live(model: str | Checkpoint, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A causal LM in evaluation mode, from safetensors, without remote code.

    Raises:
        ConfigError: the checkpoint is refused (see `Checkpoint.open`) or lacks a weight, or
            transformers cannot build the architecture.
    """
    from transformers import AutoModelForCausalLM

    checkpoint = Checkpoint.open(model) if isinstance(model, str) else model
    blueprint = Blueprint.of(checkpoint)  # refuses what transformers would fill at random
    with refusing(checkpoint):
        live = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    for name, _ in live.named_parameters():
        if name not in blueprint.keys:
            raise ConfigError(
                f"model '{checkpoint.name}': '{name}' has values of its own, but config.json ties "
                f"it to '{blueprint.tied[name]}'; set tie_word_embeddings: false if that is wrong"
            )
    live.to(device).eval()
    live.requires_grad_(False)
    return live  # type: ignore[no-any-return]


def model_config(checkpoint: Checkpoint) -> Any:
    """The transformers configuration in the checkpoint's folder."""
    from transformers import AutoConfig

    with refusing(checkpoint), quiet():
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)


def import_classes(checkpoint: Checkpoint) -> None:
    """Import what loading the model and its tokenizer will, which takes longer than loading."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = type(model_config(checkpoint))
    for auto in (AutoTokenizer, AutoModelForCausalLM):
        with suppress(AttributeError, KeyError, ValueError, ImportError):  # loading will say why
            auto._model_mapping[config]


def generation_config(checkpoint: Checkpoint) -> Any:
    """How the model generates by its own account: what transformers gives it when it is loaded."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(checkpoint.folder)
    except (OSError, TypeError):  # no such file, or one that says nothing
        return GenerationConfig.from_model_config(model_config(checkpoint))


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer in the checkpoint's folder.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model '{checkpoint.name}': no usable tokenizer ({reason})") from None
