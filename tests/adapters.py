"""LoRA adapters written tensor by tensor, as peft would save them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evoaim.lora import ADAPTER
from evoaim.model_folder import ADAPTER_CONFIG

Q = "model.layers.0.self_attn.q_proj"
NORM, EMBED, HEAD = "model.norm.weight", "model.embed_tokens", "lm_head"
PREFIX = "base_model.model."


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(module: str, outputs: int = 32, inputs: int = 32, rank: int = 2) -> dict[str, Tensor]:
    return {
        f"{PREFIX}{module}.lora_A.weight": normal(rank, inputs),
        f"{PREFIX}{module}.lora_B.weight": normal(outputs, rank, seed=1),
    }


def of_embedding(module: str = EMBED) -> dict[str, Tensor]:
    return {
        f"{PREFIX}{module}.lora_embedding_A": normal(2, 67),
        f"{PREFIX}{module}.lora_embedding_B": normal(32, 2, seed=1),
    }


def adapter(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> str:
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6} | config
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / ADAPTER)
    return str(folder)
