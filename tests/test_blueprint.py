"""Checkpoints at the edges: heads, prefixes, old buffers, and those that are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.compatibility import check_compatible, non_finite
from evoaim.errors import ConfigError
from evoaim.importance import calibrate
from evoaim.live import load_live
from tests.architectures import save, tokens

CPU = torch.device("cpu")
TOKENS = tokens()


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=TOKENS).logits
    return found


def edited(folder: Path, changes: dict[str, Tensor | None]) -> Checkpoint:
    tensors = load_file(folder / "model.safetensors")
    for key, tensor in changes.items():
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint.open(str(folder))


def test_a_head_stored_beside_or_instead_of_the_embedding(tmp_path: Path) -> None:
    folder = save(tmp_path, "qwen2")
    embedding = "model.embed_tokens.weight"
    table = load_file(folder / "model.safetensors")[embedding]
    reference = logits(load_live(str(folder), torch.float32, CPU))
    beside = edited(folder, {"lm_head.weight": table.clone()})
    blueprint = Blueprint.of(beside)
    assert blueprint.copied == {"lm_head.weight": f"tied to '{embedding}', which is merged"}
    assert torch.equal(logits(load_live(beside, torch.float32, CPU)), reference)
    instead = edited(folder, {embedding: None})
    assert Blueprint.of(instead).places["lm_head.weight"].parameter == embedding
    assert torch.equal(logits(load_live(instead, torch.float32, CPU)), reference)
    differing = edited(folder, {embedding: table, "lm_head.weight": table + 1})
    with pytest.raises(ConfigError, match=r"'lm_head.weight' has values of its own, but"):
        load_live(differing, torch.float32, CPU)


def test_names_without_the_prefix_and_old_buffers_are_known(tmp_path: Path) -> None:
    folder = save(tmp_path, "gpt2")
    reference = logits(load_live(str(folder), torch.float32, CPU))
    tensors = load_file(folder / "model.safetensors")
    bare = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    checkpoint = edited(folder, dict.fromkeys(tensors) | bare | {"h.0.attn.bias": torch.ones(1)})
    blueprint = Blueprint.of(checkpoint)
    assert blueprint.places["h.0.attn.c_attn.weight"].parameter == (
        "transformer.h.0.attn.c_attn.weight"
    )
    assert blueprint.axes["h.0.attn.c_attn.weight"] == -2
    assert blueprint.copied == {"h.0.attn.bias": "not used by the architecture"}
    live = load_live(checkpoint, torch.float32, CPU)
    assert torch.equal(logits(live), reference)
    measured = calibrate(str(folder), [TOKENS])
    assert measured is not None
    assert "h.0.attn.c_attn.weight" in measured.channels


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"odd.weight": torch.ones(2)}, r"'odd.weight' is no weight of a LlamaForC"),
        ("llama", {"model.norm.weight": None}, r"parameter 'model.norm.weight' \[32\] has no tens"),
        ("llama", {"model.norm.weight": torch.ones(3)}, r"; 'model.norm.weight' gives \[3\]"),
        (
            "mixtral",
            {"model.layers.1.block_sparse_moe.experts.2.w1.weight": None},
            r"experts.0.w1.weight' and others .*do not fit together \(.*\[3, 48, 32\] and .*\[4,",
        ),
        (
            "qwen3_moe",
            {"model.layers.1.mlp.experts.3.up_proj.weight": torch.ones(5, 32)},
            r"\[24, 32\] and 'model.layers.1.mlp.experts.3.up_proj.weight' \[5, 32\]",
        ),
        (
            "qwen3_moe",
            {f"model.layers.0.mlp.experts.3.{p}_proj.weight": None for p in ("up", "gate")},
            r"parameter 'model.layers.0.mlp.experts.gate_up_proj' \[4, .* gives \[3, 48, 32\]",
        ),
        ("gpt2", {"wte.weight": torch.ones(67, 32)}, r"'transformer.wte.weight' and 'wte.weight'"),
    ],
)
def test_checkpoints_that_do_not_fill_the_model_are_refused(
    tmp_path: Path, name: str, changes: dict[str, Tensor | None], message: str
) -> None:
    checkpoint = edited(save(tmp_path, name), changes)
    with pytest.raises(ConfigError, match=message):
        Blueprint.of(checkpoint)


def test_a_conversion_that_is_no_packing_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(save(tmp_path, "hrm_text")))
    with pytest.raises(ConfigError, match=r"tensor '.*' is converted by Chunk when transformers"):
        Blueprint.of(checkpoint)


def test_buffers_of_the_past_may_differ_and_stay_the_bases(tmp_path: Path) -> None:
    base = edited(save(tmp_path / "base", "gpt2"), {"h.0.attn.bias": torch.ones(1, 1, 8, 8)})
    for i, change in enumerate(({}, {"h.0.attn.bias": torch.ones(2)})):
        check_compatible(base, edited(save(tmp_path / f"{i}", "gpt2", seed=1), change))
        check_compatible(edited(save(tmp_path / f"{i}", "gpt2", seed=1), change), base)
    odd = edited(save(tmp_path / "odd", "gpt2"), {"h.0.attn.odd": torch.ones(1)})
    with pytest.raises(ConfigError, match=r"tensor 'h.0.attn.odd' does not exist in the base"):
        check_compatible(base, odd)
    with pytest.raises(ConfigError, match=r"tensor 'h.0.attn.odd' is missing in the expert"):
        check_compatible(odd, base)


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "NaN"), (-torch.inf, "infinite")])
def test_numbers_that_are_none_are_named_with_their_file(
    tmp_path: Path, value: float, word: str
) -> None:
    folder = save(tmp_path, "llama")
    key = "model.layers.1.mlp.up_proj.weight"
    tensor = load_file(folder / "model.safetensors")[key]
    tensor[3, 4] = value
    damaged = edited(folder, {key: tensor.bfloat16()})
    told = non_finite(damaged, key)
    assert told is not None
    assert f"'{key}' in model.safetensors has 1 of 1536 values that are {word}" in told
    assert [k for k in damaged.shapes if non_finite(damaged, k)] == [key]
