"""LoRA experts against peft: the weights are those of `merge_and_unload`, to float32 rounding."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evoaim.blueprint import Blueprint, quiet
from evoaim.checkpoint import Checkpoint
from evoaim.lora import LoraExpert, open_expert
from tests.architectures import ARCHITECTURES, save

pytestmark = pytest.mark.peers
UNTIED = {"tie_word_embeddings": False}
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
PACKED = ["q_proj", "o_proj"]  # peft adapts packed experts as parameters, which is refused
RANKS = {"rank_pattern": {"q_proj": 5, r"layers\.1\..*v_proj": 3}, "alpha_pattern": {"v_proj": 7}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rank_stabilized": ("llama", {}, ATTENTION | {"use_rslora": True, "lora_alpha": 12}),
    "patterns": ("llama", {}, ATTENTION | RANKS),
    "dora": ("llama", {}, ATTENTION | {"use_dora": True}),
    "dora_conv1d": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "dora_embedding": ("llama", {}, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "embedding_and_head": ("llama", {}, {"target_modules": ["embed_tokens", "lm_head"]}),
    "positions": ("gpt2", UNTIED, {"target_modules": ["wte", "wpe", "c_proj", "lm_head"]}),
    "modules_to_save": ("llama", {}, ATTENTION | {"modules_to_save": ["lm_head", "norm"]}),
    "bias_all": ("qwen2", {}, ATTENTION | {"bias": "all"}),
    "bias_of_lora": ("qwen2", {}, ATTENTION | {"bias": "lora_only", "lora_bias": True}),
    "bias_conv1d": ("gpt2", {}, {"target_modules": ["c_fc"], "bias": "lora_only"}),
}


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Peft warns a lot, and its own warnings are no failures of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("peft")
        yield


def trained(base: Path, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Save an adapter, every weight of which has been trained; returns what peft merges it to."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 6} | options
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
        adapted.save_pretrained(folder)
        merged = adapted.merge_and_unload()
    return {name: p.data for name, p in merged.named_parameters()}


def check(base: Path, adapter: Path, merged: dict[str, torch.Tensor]) -> LoraExpert:
    checkpoint = Checkpoint.open(str(base))
    expert = open_expert(str(adapter), checkpoint)
    assert isinstance(expert, LoraExpert)
    for key, place in Blueprint.of(checkpoint).places.items():
        theirs, origin = place.view(merged[place.parameter]), checkpoint.tensor(key).float()
        ours = expert.tensor(key).float()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6, msg=key)
        assert expert.touches(key) == (not torch.equal(theirs, origin)), key
        if (delta := expert.delta(key)) is not None:
            torch.testing.assert_close(origin + delta, theirs, rtol=1e-5, atol=2e-6, msg=key)
    return expert


@pytest.mark.parametrize("case", CASES)
def test_every_option_merges_as_in_peft(tmp_path: Path, case: str) -> None:
    name, changes, options = CASES[case]
    base = save(tmp_path / "base", name, **changes)
    merged = trained(base, tmp_path / "adapter", **options)
    check(base, tmp_path / "adapter", merged)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_merges_as_in_peft(tmp_path: Path, name: str) -> None:
    base = save(tmp_path / "base", name)
    packed = any("expert" in key for key in Checkpoint.open(str(base)).shapes)
    merged = trained(base, tmp_path / "adapter", target_modules=PACKED if packed else "all-linear")
    expert = check(base, tmp_path / "adapter", merged)
    assert len(expert.changes) >= 4


def test_a_copy_of_the_embedding_beside_the_adapter_is_not_a_change(tmp_path: Path) -> None:
    base = save(tmp_path / "base", "llama")
    trained(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    expert = open_expert(str(tmp_path / "adapter"), Checkpoint.open(str(base)))
    assert isinstance(expert, LoraExpert)
    assert expert.factors("model.embed_tokens.weight") is not None
    assert expert.n_bytes == 4 * 4 * (67 + 32)
