"""LoRA experts: the three states of a tensor, scales, names, ties, identity."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evoaim.checkpoint import Checkpoint
from evoaim.compatibility import check_compatible
from evoaim.errors import ConfigError
from evoaim.lora import ADAPTER, LoraExpert, open_expert
from evoaim.model_folder import ADAPTER_CONFIG, LEFT_OUT, PATTERNS
from tests.adapters import EMBED, HEAD, NORM, PREFIX, Q, adapter, factors, normal, of_embedding
from tests.architectures import save
from tests.conftest import make_tokenizer


def opened(name: str, base: Checkpoint) -> LoraExpert:
    expert = open_expert(name, base)
    assert isinstance(expert, LoraExpert)
    return expert


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = save(tmp_path_factory.mktemp("lora") / "llama", "llama")
    make_tokenizer(folder, 64)
    return Checkpoint.open(str(folder))


@pytest.fixture(scope="session")
def tied(family: dict[str, str]) -> Checkpoint:
    return Checkpoint.open(family["base"])


def test_a_tensor_is_untouched_whole_or_computed(untied: Checkpoint, tmp_path: Path) -> None:
    tensors = factors(Q) | {f"{PREFIX}{NORM}": normal(32).bfloat16()}
    expert = opened(adapter(tmp_path / "x", tensors), untied)
    assert {k for k in untied.shapes if expert.touches(k)} == {f"{Q}.weight", NORM}
    b, a = tensors[f"{PREFIX}{Q}.lora_B.weight"], tensors[f"{PREFIX}{Q}.lora_A.weight"]
    for key, shape in untied.shapes.items():
        origin, whole, delta = untied.tensor(key), expert.tensor(key), expert.delta(key)
        pair = expert.factors(key)
        if key == NORM:
            assert (delta, pair, whole.dtype) == (None, None, torch.bfloat16)
            assert torch.equal(whole, tensors[f"{PREFIX}{NORM}"])
        elif key == f"{Q}.weight":
            assert delta is not None
            assert pair is not None
            assert (delta.shape, delta.dtype) == (shape, torch.float32)
            torch.testing.assert_close(delta, 3.0 * (b @ a))
            assert torch.equal(delta, pair[0] @ pair[1])
            assert torch.equal(whole, origin + delta)
        else:
            assert (delta, pair) == (None, None)
            assert torch.equal(whole, origin)
    assert expert.shapes == untied.shapes
    assert (expert.n_bytes, expert.dtype) == (4 * 2 * (32 + 32) + 2 * 32, "float32")
    check_compatible(untied, expert)


def test_a_full_checkpoint_is_opened_as_it_is(family: dict[str, str], tied: Checkpoint) -> None:
    full = open_expert(family["a"], tied)
    assert isinstance(full, Checkpoint)
    assert {(full.touches(k), full.delta(k)) for k in tied.shapes} == {(True, None)}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 6 / 2),
        ({"lora_alpha": 0.5}, 0.5 / 2),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"q_proj": 10}}, 10 / 2),
        ({"alpha_pattern": {"proj": 10, ".*layers.0.*": 4, "q_proj": 8}}, 4 / 2),
        ({"alpha_pattern": {"^layers.0.self_attn.q_proj": 10, "_proj": 12}}, 6 / 2),
        ({"r": 64, "rank_pattern": {Q: 2}}, 6 / 2),
        ({"fan_in_fan_out": True, "bias": "none", "megatron_core": "megatron.core"}, 6 / 2),
    ],
)
def test_scale(untied: Checkpoint, tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    tensors = factors(Q)
    delta = opened(adapter(tmp_path / "x", tensors, **config), untied).delta(f"{Q}.weight")
    a, b = tensors.values()
    torch.testing.assert_close(delta, scale * (b @ a))


def test_a_small_difference_survives_a_bfloat16_base(untied: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(untied.folder, tmp_path / "base")
    rounded = {k: v.bfloat16() for k, v in load_file(untied.folder / "model.safetensors").items()}
    save_file(rounded, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    base = Checkpoint.open(str(tmp_path / "base"))
    tensors = {k: 0.01 * v for k, v in factors(Q).items()}
    expert = opened(adapter(tmp_path / "x", tensors), base)
    delta, whole = expert.delta(f"{Q}.weight"), expert.tensor(f"{Q}.weight")
    assert delta is not None
    torch.testing.assert_close(whole - base.tensor(f"{Q}.weight"), delta, rtol=1e-2, atol=1e-7)


def test_checkpoint_names_and_live_names_both_fit(tmp_path: Path) -> None:
    gpt2 = save(tmp_path / "gpt2", "gpt2")
    bare = {
        k.removeprefix("transformer."): v for k, v in load_file(gpt2 / "model.safetensors").items()
    }
    save_file(bare, gpt2 / "model.safetensors", metadata={"format": "pt"})
    mixtral = save(tmp_path / "mixtral", "mixtral")
    one = "model.layers.1.block_sparse_moe.experts.3.w1"  # a live parameter holds many of these
    for folder, module, key, shape in (
        (gpt2, "transformer.h.0.attn.c_attn", "h.0.attn.c_attn.weight", (96, 32)),
        (gpt2, "h.0.attn.c_attn", "h.0.attn.c_attn.weight", (96, 32)),
        (mixtral, one, f"{one}.weight", (48, 32)),
    ):
        tensors = factors(module, *shape)
        expert = opened(adapter(tmp_path / "x", tensors), Checkpoint.open(str(folder)))
        a, b = tensors.values()
        delta = 3.0 * (b @ a)
        torch.testing.assert_close(expert.delta(key), delta.T if folder == gpt2 else delta)


def test_tied_weights_take_a_change_of_both_names_once(tied: Checkpoint, tmp_path: Path) -> None:
    a, b = of_embedding().values()
    head = {f"{PREFIX}{HEAD}.lora_A.weight": b.T, f"{PREFIX}{HEAD}.lora_B.weight": a.T}
    expert = opened(adapter(tmp_path / "x", of_embedding() | head), tied)
    assert set(expert.changes) == {f"{EMBED}.weight"}
    torch.testing.assert_close(expert.delta(f"{EMBED}.weight"), 3.0 * (b @ a).T)
    whole = {f"{PREFIX}{m}.weight": normal(67, 32) for m in (EMBED, HEAD)}
    expert = opened(adapter(tmp_path / "x", whole), tied)
    assert torch.equal(expert.tensor(f"{EMBED}.weight"), normal(67, 32))


def test_a_stored_twin_of_tied_weights_changes_with_them(tied: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(tied.folder, tmp_path / "base")
    stored = load_file(tied.folder / "model.safetensors")
    stored[f"{HEAD}.weight"] = stored[f"{EMBED}.weight"].clone()
    save_file(stored, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    base = Checkpoint.open(str(tmp_path / "base"))
    whole = {f"{PREFIX}{m}.weight": normal(67, 32) for m in (EMBED, HEAD)}
    expert = opened(adapter(tmp_path / "x", whole), base)
    assert torch.equal(expert.tensor(f"{HEAD}.weight"), expert.tensor(f"{EMBED}.weight"))
    check_compatible(base, expert)


@pytest.mark.parametrize(
    "tensors",
    [
        of_embedding(),
        factors(HEAD, 67),
        of_embedding() | factors(HEAD, 67),
        {f"{PREFIX}{EMBED}.weight": normal(67, 32)},
        {f"{PREFIX}{HEAD}.weight": normal(67, 32)},
        {
            f"{PREFIX}{EMBED}.weight": normal(67, 32),
            f"{PREFIX}{HEAD}.weight": normal(67, 32, seed=1),
        },
    ],
)
def test_a_change_that_ties_cannot_hold(
    tied: Checkpoint, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    with pytest.raises(ConfigError, match=r"ties both to 'model.embed_tokens.weight'; train it"):
        open_expert(adapter(tmp_path / "x", tensors), tied)


def test_the_same_bits_with_any_number_of_threads(tmp_path: Path) -> None:
    base = Checkpoint.open(str(save(tmp_path / "base", "llama", vocab_size=20_000)))
    name = adapter(tmp_path / "x", factors(HEAD, 20_000, rank=16), r=16)
    expert = opened(name, base)
    threads, deltas = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            deltas.append(expert.delta(f"{HEAD}.weight"))
    finally:
        torch.set_num_threads(threads)
    assert all(d is not None and torch.equal(d, deltas[0]) for d in deltas)


def test_released_files_are_read_again(untied: Checkpoint, tmp_path: Path) -> None:
    expert = opened(adapter(tmp_path / "x", factors(Q)), untied)
    before = expert.tensor(f"{Q}.weight"), untied.tensor(NORM)
    copies = [t.clone() for t in before]
    expert.release()
    untied.release()
    after = expert.tensor(f"{Q}.weight"), untied.tensor(NORM)
    for x, y, z in zip(before, copies, after, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(y, z)


def test_content_hash_follows_adapter_and_base(
    untied: Checkpoint, tied: Checkpoint, tmp_path: Path
) -> None:
    name = adapter(tmp_path / "x", factors(Q))
    moved = str(shutil.copytree(name, tmp_path / "y"))
    first = opened(name, untied).content_hash
    assert opened(moved, untied).content_hash == first
    others = [opened(name, tied).content_hash]
    adapter(tmp_path / "x", factors(Q), lora_alpha=7)
    others.append(opened(name, untied).content_hash)
    adapter(tmp_path / "x", {k: v + 1e-6 for k, v in factors(Q).items()})
    others.append(opened(name, untied).content_hash)
    assert len({first, *others}) == 4


def test_notes(untied: Checkpoint, tmp_path: Path) -> None:
    name = adapter(tmp_path / "x", factors(Q), base_model_name_or_path="org/LLaMA")
    assert opened(name, untied).notes == ()
    adapter(tmp_path / "x", factors(Q), base_model_name_or_path="org/other")
    make_tokenizer(tmp_path / "x", 66)
    said, tokens = opened(name, untied).notes
    assert said == f"adapter_config.json names the base 'org/other'; it is used on '{untied.name}'"
    assert tokens == "its tokenizer adds 2 tokens, such as 'w64', that the base lacks"


def test_a_hub_download_has_what_is_read_and_no_more() -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    wanted += [ADAPTER, ADAPTER_CONFIG, "tokenizer.json", "tokenizer.model", "chat_template.jinja"]
    wanted += ["LICENSE", "README.md"]
    others = ["adapter_model.bin", "optimizer.pt", f"checkpoint-100/{ADAPTER}", "onnx/config.json"]
    others += ["consolidated.safetensors", "original/consolidated.00.pth", "modeling_x.py"]
    found = filter_repo_objects(
        wanted + others, allow_patterns=list(PATTERNS), ignore_patterns=list(LEFT_OUT)
    )
    assert list(found) == wanted
