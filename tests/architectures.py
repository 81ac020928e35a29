"""Tiny random checkpoints of many architectures, saved as their authors would save them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evoaim.live import quiet

VOCABULARY = 67
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
OLD = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}

# Name -> (configuration class of transformers, its settings).
ARCHITECTURES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("Llama", COMMON | UNTIED),
    "mistral": ("Mistral", COMMON),
    "qwen2": ("Qwen2", COMMON | TIED),
    "qwen3": ("Qwen3", COMMON | HEAD),
    "gemma2": ("Gemma2", COMMON | HEAD),
    "gemma3": ("Gemma3Text", COMMON | HEAD),
    "phi3": ("Phi3", COMMON),
    "gpt2": ("GPT2", OLD),
    "gpt_neox": ("GPTNeoX", COMMON),
    "olmo2": ("Olmo2", COMMON),
    "starcoder2": ("Starcoder2", COMMON | {"use_bias": True}),
    "falcon": ("Falcon", COMMON),
    "bloom": ("Bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt": ("OPT", COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "granite": ("Granite", COMMON),
    "cohere": ("Cohere", COMMON),
    "stablelm": ("StableLm", COMMON),
    "mixtral": ("Mixtral", COMMON | LOCAL),
    "qwen2_moe": ("Qwen2Moe", COMMON | EXPERTS | {"shared_expert_intermediate_size": 40}),
    "qwen3_moe": ("Qwen3Moe", COMMON | HEAD | EXPERTS | UNTIED),
    "olmoe": ("Olmoe", COMMON | {"num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": ("GraniteMoe", COMMON | LOCAL),
    "gpt_oss": ("GptOss", COMMON | HEAD | LOCAL),
}

REFUSED = {"hrm_text": ("HrmText", COMMON)}  # stores q, k, v and gate as one tensor


def save(folder: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    """Save a random checkpoint of an architecture; every weight is random, norms and biases too."""
    import transformers

    kind, settings = (ARCHITECTURES | REFUSED)[name]
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(**(dict(settings) | changes))
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(folder)
    return folder


def tokens(seed: int = 7) -> torch.Tensor:
    """Token ids, (4, 16)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (4, 16), generator=generator)
