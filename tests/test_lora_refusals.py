"""LoRA adapters that are refused: of another kind, of another base, damaged or hostile."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.lora import ADAPTER, open_expert
from evoaim.model_folder import ADAPTER_CONFIG
from tests.adapters import EMBED, HEAD, NORM, PREFIX, Q, adapter, factors, normal, of_embedding
from tests.architectures import save
from tests.conftest import make_tokenizer

A, B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"
MERGE = r"merge it into its base first \(peft: merge_and_unload, save_pretrained\)$"


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = save(tmp_path_factory.mktemp("lora") / "llama", "llama")
    make_tokenizer(folder, 64)
    return Checkpoint.open(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, rf"peft_type is 'LOHA', only LORA is supported; {MERGE}"),
        ({"peft_type": None}, r"peft_type is None, only LORA"),
        (
            {"target_parameters": ["experts.down_proj"]},
            rf"target_parameters: adapts packed.*{MERGE}",
        ),
        ({"trainable_token_indices": [1]}, rf"trainable_token_indices: trains rows.*{MERGE}"),
        ({"layer_replication": [[0, 2], [1, 2]]}, rf"layer_replication: repeats layers.*{MERGE}"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens: works on some tokens only"),
        ({"init_lora_weights": "pissa_niter_4"}, r"'pissa_niter_4' took a part.*save it converted"),
        ({"init_lora_weights": "olora"}, r"'olora' took a part of the base into the adapter"),
        ({"use_dora": True}, rf"use_dora is true, but '{Q}' has no lora_magnitude_vector"),
        ({"r": 4}, rf"gives '{Q}' rank 4, but '{A}' has shape \[2, 32\]; the files do not belong"),
        ({"rank_pattern": {"q_proj": 3}}, rf"gives '{Q}' rank 3, but"),
        ({"r": 0}, r"has r 0; a whole number above 0 expected"),
        ({"r": 2.5}, r"has r 2.5; a whole number above 0 expected"),
        ({"r": "2"}, r"has r '2'; a number expected"),
        ({"lora_alpha": float("nan")}, r"has lora_alpha nan; a number expected"),
        ({"lora_alpha": True}, r"has lora_alpha True; a number expected"),
        ({"lora_alpha": 10**400}, r"has lora_alpha 10+; a number expected"),
        ({"rank_pattern": ["q_proj"]}, r"has rank_pattern \['q_proj'\]; an object expected"),
        (
            {"alpha_pattern": {"q_proj": None}},
            r"has alpha_pattern 'q_proj' None; a number expected",
        ),
        ({"alpha_pattern": {"(q": 1}}, r"has alpha_pattern '\(q' \(.*unterminated"),
        ({"alpha_pattern": {"q{99999999999}": 1}}, r"has alpha_pattern 'q\{9+\}' \(.*too large"),
        ({"alpha_pattern": {"(.*a)*b": 1}}, r"has alpha_pattern '.*', too many repetitions"),
        ({"alpha_pattern": {".*.*.*.*b": 1}}, r"has alpha_pattern '.*', too many repetitions"),
    ],
)
def test_settings(untied: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    name = adapter(tmp_path / "x", factors(Q), **config)
    with pytest.raises(ConfigError, match=rf"^model '{name}': .*{message}"):
        open_expert(name, untied)


OTHER = r"it is a LoRA for another base$"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"the adapter changes nothing in the base"),
        (
            factors("model.layers.7.self_attn.q_proj"),
            rf"changes 'model.layers.7.self_attn.q_proj.weight', which the base '.*' does.*{OTHER}",
        ),
        (factors(Q, 64), rf"'{B}' is for .* \[64, 32\], '{Q}.weight' .* has \[32, 32\]; {OTHER}"),
        (factors(Q, 32, 48), rf"'{B}' is for .* \[32, 48\], '{Q}.weight' .* \[32, 32\]; {OTHER}"),
        ({f"{PREFIX}{NORM}": normal(48)}, rf"'.*{NORM}' is for a tensor of shape \[48\].*{OTHER}"),
        ({f"{PREFIX}score.weight": normal(3, 32)}, rf"changes 'score.weight', which.*{OTHER}"),
        (
            {f"{PREFIX}{EMBED}.weight": normal(69, 32)},
            r"'model.embed_tokens.weight' has 69 rows in the adapter and 67 in the base ",
        ),
        (
            factors(HEAD, 69),
            r"'lm_head.weight' has 69 rows in the adapter and 67 in the base .*: tokens were added",
        ),
        (
            of_embedding() | {f"{PREFIX}{EMBED}.lora_embedding_A": normal(2, 70)},
            r"'model.embed_tokens.weight' has 70 rows in the adapter and 67 in the base",
        ),
        (
            factors(Q) | {f"{PREFIX}{Q}.lora_B.bias": normal(32)},
            rf"adds a bias '{Q}.bias', which the base '.*' does not have; {OTHER}",
        ),
        (
            factors(Q) | {f"{PREFIX}{Q}.lora_magnitude_vector": normal(32)},
            rf"use_dora is false, but '{Q}' has a lora_magnitude_vector",
        ),
        ({A: normal(2, 32)}, rf"'{A}' is not understood, or lacks its counterpart"),
        (
            factors(Q) | {f"{PREFIX}{Q}.lora_diag": normal(2)},
            rf"'{PREFIX}{Q}.lora_diag' is not understood.*{MERGE}",
        ),
        (
            {A: normal(2, 32, 1, 1), B: normal(32, 2, 1, 1)},
            r"are not two matrices of one rank; convolutions are not supported",
        ),
        ({A: normal(0), B: normal(0)}, r"rank 2, but .* \[0\]; .*DeepSpeed, FSDP"),
        ({A: normal(2, 32), B: normal(32, 3)}, r"are not two matrices of one rank"),
        (
            factors(Q) | {k.removeprefix(PREFIX): v for k, v in factors(Q).items()},
            rf"'{Q}.lora_A.weight' and '{PREFIX}{Q}.lora_A.weight' are the same tensor",
        ),
        (
            {f"{PREFIX}{NORM}": normal(32), NORM: normal(32)},
            rf"'{NORM}' is changed twice, under two names",
        ),
        (
            factors(Q) | {f"{PREFIX}{Q}.base_layer.weight": torch.zeros(512, 1, dtype=torch.uint8)},
            rf"'{PREFIX}{Q}.base_layer.weight' is stored as U8; .* quantized layers are not",
        ),
    ],
)
def test_tensors(
    untied: Checkpoint, tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    name = adapter(tmp_path / "x", tensors)
    with pytest.raises(ConfigError, match=rf"^model '{name}': .*{message}"):
        open_expert(name, untied)


def truncate(folder: Path) -> None:
    data = (folder / ADAPTER).read_bytes()
    (folder / ADAPTER).write_bytes(data[: len(data) // 2])


def pickle_it(folder: Path) -> None:
    torch.save(load_file(folder / ADAPTER), folder / "adapter_model.bin")
    (folder / ADAPTER).unlink()


def link_out(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")

    return damage


def other_tokens(folder: Path) -> None:
    make_tokenizer(folder, 64)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"] |= {"w0": 4, "w1": 3}
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, rf"{ADAPTER} is damaged or truncated .*; download it again"),
        (pickle_it, r"its adapter is pickled.*refused; convert it to safetensors"),
        (lambda f: (f / ADAPTER).unlink(), rf"holds {ADAPTER_CONFIG}, but no {ADAPTER}"),
        (link_out(ADAPTER), rf"'{ADAPTER}' links outside the folder; refused"),
        (link_out(ADAPTER_CONFIG), rf"'{ADAPTER_CONFIG}' links outside the folder; refused"),
        (lambda f: (f / ADAPTER_CONFIG).write_text("["), rf"{ADAPTER_CONFIG} cannot be read"),
        (
            lambda f: (f / ADAPTER_CONFIG).write_text("[]"),
            rf"{ADAPTER_CONFIG} is not a JSON object",
        ),
        (
            lambda f: (f / "model.safetensors").touch(),
            r"holds both a full model and a LoRA adapter",
        ),
        (other_tokens, rf"token 'w0' has id 4 in the adapter's.* and 3 in the base '.*'; {OTHER}"),
    ],
)
def test_files(
    untied: Checkpoint, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    name = adapter(tmp_path / "x", factors(Q))
    open_expert(name, untied)
    damage(tmp_path / "x")
    with pytest.raises(ConfigError, match=rf"^model '{name}': .*{message}"):
        open_expert(name, untied)


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    name = adapter(tmp_path / "x", factors(Q))
    with pytest.raises(ConfigError, match=rf"is a LoRA adapter .* full model is needed: {MERGE}"):
        Checkpoint.open(name)


@pytest.mark.parametrize("part", [A, B])
def test_values_that_are_not_finite_name_their_tensor(
    untied: Checkpoint, tmp_path: Path, part: str
) -> None:
    tensors = factors(Q)
    tensors[part][1, 1] = float("nan")
    expert = open_expert(adapter(tmp_path / "x", tensors), untied)
    for read in (expert.delta, expert.tensor):
        with pytest.raises(ConfigError, match=rf"tensor '{part}' in {ADAPTER} holds NaN or inf"):
            read(f"{Q}.weight")


def test_a_part_that_the_base_packs_is_refused(tmp_path: Path) -> None:
    base = Checkpoint.open(str(save(tmp_path / "base", "mixtral")))
    packed = {f"{PREFIX}model.layers.0.mlp.experts.down_proj": normal(4, 32, 48)}
    with pytest.raises(
        ConfigError, match=r"which the base stores in parts \('.*w2.weight' is one\)"
    ):
        open_expert(adapter(tmp_path / "x", packed), base)
