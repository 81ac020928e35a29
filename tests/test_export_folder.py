"""What lies beside exported weights, and what became of every tensor of the base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import evoaim
from evoaim import Recipe
from evoaim.checkpoint import Checkpoint
from evoaim.commands import measure_command, merge_command
from evoaim.export import Exported, export_model
from evoaim.export.companions import model_config, tokenizer_config, without_origins
from evoaim.merger import Merger

TEMPLATE = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}"


def changed(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def export(base: Path, expert: str, out: Path, **recipe: Any) -> Path:
    data = {"merge_method": "linear", "base_model": str(base)} | recipe
    if "slices" not in recipe:
        data["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in (str(base), expert)]
    read = Recipe.from_dict(data)
    merger = Merger.open(str(base), {expert: expert}, "cpu", like=read)
    return export_model(merger, Exported(read, {}), out, "float32")


@pytest.fixture
def base(family: dict[str, str], tmp_path: Path) -> Path:
    """A copy of the base, to be changed."""
    return Path(shutil.copytree(family["base"], tmp_path / "somebody" / "base"))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_chat_template_renders_as_the_bases(
    base: Path, family: dict[str, str], tmp_path: Path, place: str
) -> None:
    from transformers import AutoTokenizer

    if place.endswith("jinja"):
        (base / place).write_text(TEMPLATE)
    else:
        changed(base / place, chat_template=TEMPLATE)
    out = export(base, family["a"], tmp_path / "out")
    talk = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    ours, theirs = (
        AutoTokenizer.from_pretrained(f).apply_chat_template(talk, tokenize=False)
        for f in (out, base)
    )
    assert ours == theirs == "<s>user w1 w2</s><s>assistant w3</s>"


def test_the_chat_template_of_a_recipe(base: Path, family: dict[str, str], tmp_path: Path) -> None:
    changed(base / "tokenizer_config.json", chat_template="{{ messages }}")
    out = export(base, family["a"], tmp_path / "out", chat_template=TEMPLATE)
    assert (out / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE


def test_a_larger_vocabulary(base: Path, family: dict[str, str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expert = Path(shutil.copytree(family["a"], tmp_path / "somebody" / "expert"))
    weights = load_file(expert / "model.safetensors")
    embedding, new = weights["model.embed_tokens.weight"], torch.ones(1, 32)
    weights["model.embed_tokens.weight"] = torch.cat([embedding, new])
    save_file(weights, expert / "model.safetensors", metadata={"format": "pt"})
    changed(expert / "config.json", vocab_size=68)
    tokenizer = AutoTokenizer.from_pretrained(expert)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(expert)
    out = export(base, str(expert), tmp_path / "out", tokenizer_source="union")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.vocab_size == len(tokenizer) == 68
    row = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<new>")]
    assert torch.equal(row, torch.ones(32))  # no other model has it
    assert "somebody" not in (out / "recipe.yaml").read_text()


def test_no_text_holds_a_local_path(base: Path, family: dict[str, str], tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        changed(base / name, _name_or_path="/home/somebody/models/base")
    origins = {"name_or_path": str(base), "tokenizer_file": "C:\\Users\\somebody\\tokenizer.json"}
    changed(base / "tokenizer_config.json", **origins)
    out = export(base, family["a"], tmp_path / "out")
    for file in (f for f in out.rglob("*") if f.is_file()):
        text = file.read_bytes()
        for secret in (b"somebody", str(tmp_path).encode(), family["a"].encode(), b"/home/"):
            assert secret not in text, f"{file.name} holds {secret!r}"
    hub = {"_name_or_path": "meta-llama/Llama-3.2-1B"}
    assert without_origins(hub) == hub  # a hub id is no path


OFF = [{"filter": ".mlp.", "value": [1.0, 1.0]}, {"value": 1.0}]


@pytest.mark.parametrize("omega", [1.0, OFF])
def test_where_aim_is_off_nothing_says_that_it_was_used(
    base: Path, family: dict[str, str], tmp_path: Path, omega: Any
) -> None:
    out = export(base, family["a"], tmp_path / "out", aim={"omega": omega})
    card = (out / "README.md").read_text()
    assert "Activation-Informed Merging (arXiv:2502.02421) was off." in card
    assert "importance" not in card
    assert "AIM step" not in card + (out / "mergekit_config.yml").read_text()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["merge", "evoaim", "mergekit"]


def test_a_card_ends_with_a_newline_and_links_to_no_package_index(
    base: Path, family: dict[str, str], tmp_path: Path
) -> None:
    card = (export(base, family["a"], tmp_path / "out") / "README.md").read_text()
    assert card.endswith("publish.\n")
    assert "pypi.org" not in card
    assert f"evoaim {evoaim.__version__} by" in card
    assert "Activation-Informed" not in card


def test_every_tensor_of_the_base_is_accounted_for(
    base: Path, family: dict[str, str], tmp_path: Path
) -> None:
    weights = load_file(base / "model.safetensors")
    extra = {
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.arange(4.0),
        "model.layers.2.self_attn.rotary_emb.inv_freq": torch.arange(4.0) + 2,
    }
    save_file(weights | extra, base / "model.safetensors", metadata={"format": "pt"})
    out = export(base, family["a"], tmp_path / "out")
    fate = json.loads((out / "reproduce" / "tensors.json").read_text())
    assert fate["merged"] == len(weights)
    assert set(fate["left_out"]) == {"lm_head.weight"}
    assert "tied to" in fate["left_out"]["lm_head.weight"]
    assert set(fate["copied"]) == {k for k in extra if k.endswith("inv_freq")}
    written = load_file(out / "model.safetensors")
    assert set(written) == (set(weights) | set(extra)) - {"lm_head.weight"}
    assert all(torch.equal(written[k], extra[k]) for k in fate["copied"])
    assert "not used by the architecture" in (out / "README.md").read_text()


def test_stacked_layers_take_their_tensors_along(
    base: Path, family: dict[str, str], tmp_path: Path
) -> None:
    weights = load_file(base / "model.safetensors")
    extra = {"model.layers.2.self_attn.rotary_emb.inv_freq": torch.arange(4.0)}
    save_file(weights | extra, base / "model.safetensors", metadata={"format": "pt"})
    slices = [
        {"sources": [{"model": str(base), "layer_range": [0, 3]}]},
        {"sources": [{"model": family["a"], "layer_range": [2, 3]}]},
    ]
    changes = {"merge_method": "passthrough", "slices": slices}
    out = export(base, family["a"], tmp_path / "out", **changes)
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 4
    written, a = load_file(out / "model.safetensors"), Checkpoint.open(family["a"])
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(written[name.format(2)], weights[name.format(2)])
    assert torch.equal(written[name.format(3)], a.tensor(name.format(2)))
    assert sorted(k for k in written if "inv_freq" in k) == [
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in (2, 3)
    ]


ROPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
    (
        {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0, "partial_rotary_factor": 0.5},
        {
            "rope_theta": 1e6,
            "partial_rotary_factor": 0.5,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    (
        {
            "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
    ),
    (
        {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1], "long_factor": [2]},
        {
            "rope_theta": 1e4,
            "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]},
        },
    ),
]


@pytest.mark.parametrize(("rope", "flat"), ROPES)
def test_rotary_settings_are_written_for_both_majors(
    rope: dict[str, Any], flat: dict[str, Any]
) -> None:
    config = model_config({"model_type": "x", "rope_parameters": rope}, "bfloat16")
    dtypes = {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    assert config == {"model_type": "x", "rope_parameters": rope} | dtypes | flat
    nested = model_config({"text_config": {"rope_parameters": rope}}, "bfloat16")
    assert nested["text_config"] == {"rope_parameters": rope} | flat
    kept = model_config({"rope_parameters": rope, "rope_theta": 7.0}, "bfloat16")
    assert kept["rope_theta"] == 7.0  # what the base says itself stays


def test_a_tokenizer_config_is_written_for_both_majors() -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "x": 1}
    assert tokenizer_config(new) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
        "x": 1,
    }
    old = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert tokenizer_config(old) == old


def test_statistics_on_text_go_along(
    family: dict[str, str], tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = Path(tiny["calibration"]["data"])
    files = {family[n]: str(tmp_path / f"{n}.safetensors") for n in "ab"}
    for model, file in files.items():
        measure_command(model, data, Path(file), (4, 16), "cpu", "gram")
    recipe = {"merge_method": "regmean", "models": list(files), "statistics": files}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    merge_command(tmp_path / "recipe.yaml", tmp_path / "out", "cpu", None)
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    assert str(tmp_path) not in text
    again = Recipe.from_yaml(tmp_path / "out" / "recipe.yaml")
    again = again.renamed({n: family[n] for n in "ab"})  # the export names models without parents
    merger = Merger.open(family["a"], {"b": family["b"]}, "cpu").with_statistics_of(again)
    out = export_model(merger, Exported(again, {}), tmp_path / "again", "float32")
    ours, theirs = ((f / "model.safetensors").read_bytes() for f in (out, tmp_path / "out"))
    assert ours == theirs
    assert not (out / "mergekit_config.yml").exists()
    assert "mergekit does\nnot have this method" in (out / "README.md").read_text()
