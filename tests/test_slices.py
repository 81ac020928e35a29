"""Slices: every output tensor has its sources, depths and parameters where mergekit has them."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from search_spaces.anatomy import Anatomy
from search_spaces.dataflow import DataFlow, Flow, is_front, restacked
from search_spaces.errors import SpaceError
from search_spaces.recipe import Recipe
from search_spaces.stack import Slot, stack

LAYER = ("self_attn.o_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")
AROUND = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def llama(n: int) -> Anatomy:
    inside = [f"model.layers.{i}.{p}" for i in range(n) for p in LAYER]
    return Anatomy.of([AROUND[0], *inside, *AROUND[1:]], n)


KEYS = {"base": "", "hub/base": "", "a": "a", "hub/a": "a", "b": "b"}


def flows(data: Mapping[str, Any], anatomy: Anatomy) -> DataFlow:
    return DataFlow.of(Recipe.from_dict(data), anatomy, KEYS, "")


def source(model: str, start: int, end: int, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "layer_range": [start, end], "parameters": parameters}


@pytest.mark.parametrize("n", [1, 2, 12])
def test_without_slices_every_tensor_comes_from_its_name(n: int) -> None:
    anatomy = llama(n)
    shared = {"weight": 1.0}
    models = [{"model": "a", "parameters": {"weight": 2.0}}, "hub/base"]
    flow = flows({"merge_method": "linear", "models": models, "parameters": shared}, anatomy)
    assert flow.anatomy == anatomy
    assert flow.layers == tuple(range(n))
    for tensor in anatomy.tensors:
        found = flow.flow(tensor)
        assert found.depth == anatomy.depth(tensor)
        assert [(f.model, f.tensor) for f in found.feeds] == [("a", tensor), ("", tensor)]
        assert (found.own("weight", "a"), found.own("weight", "")) == (2.0, 1.0)
        assert (found.own("weight", "b"), found.shared("t")) == (1.0, None)
        assert found.source("b") == tensor


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_one_slice_over_all_layers_is_no_slice(n: int, data: st.DataObject) -> None:
    models = data.draw(st.lists(st.sampled_from(["a", "b", "base"]), min_size=1, unique=True))
    own = {m: {"weight": [i, i + 1.5, -i]} for i, m in enumerate(models)}
    shared = {"t": [{"filter": "layers.1", "value": [0, 1]}, {"value": 0.5}]}
    whole = {"merge_method": "linear", "parameters": shared}
    plain = flows(
        whole | {"models": [{"model": m, "parameters": own[m]} for m in models]}, llama(n)
    )
    cut = [{"sources": [source(m, 0, n, **own[m]) for m in models]}]
    sliced = flows(whole | {"slices": cut}, llama(n))
    assert (sliced.anatomy, sliced.layers) == (plain.anatomy, plain.layers)
    for tensor in plain.anatomy.tensors:
        ours, theirs = sliced.flow(tensor), plain.flow(tensor)
        assert (ours.depth, ours.shared("t")) == (theirs.depth, theirs.shared("t"))
        for m in ("", "a", "b"):
            assert ours.own("weight", m) == theirs.own("weight", m)
            assert ours.source(m) == theirs.source(m)


def test_layers_gradients_and_filters_follow_the_slices() -> None:
    data = {
        "merge_method": "linear",
        "parameters": {"weight": 9.0, "t": 0.9},
        "slices": [
            {"sources": [source("a", 2, 5, weight=[0.0, 1.0])], "parameters": {"t": [0.0, 1.0]}},
            {
                "sources": [
                    source("b", 0, 1, weight=[{"filter": "layers.0.", "value": [3.0, 4.0]}]),
                    source("base", 3, 4),
                ],
                "parameters": {"weight": [{"filter": "layers.3.", "value": 5.0}]},
            },
        ],
    }
    flow = flows(data, llama(5))
    assert flow.anatomy == llama(4)
    assert flow.layers == (2, 3, 4, 3)
    weights = [flow.flow(f"model.layers.{i}.{LAYER[0]}") for i in range(4)]
    assert [w.depth for w in weights] == [0.0, 0.5, 1.0, 1.0]
    assert [w.own("weight", "a") for w in weights[:3]] == [0.0, 0.5, 1.0]
    assert [w.shared("t") for w in weights] == [0.0, 0.5, 1.0, 0.9]
    last = weights[3]
    assert [f.tensor for f in last.feeds] == [f"model.layers.{i}.{LAYER[0]}" for i in (0, 3)]
    # a lone layer is read at depth 1; per-model filters test the source's name
    assert (last.own("weight", "b"), last.own("weight", "")) == (4.0, 5.0)
    # of a model that the slice does not list: the layer of the first source
    assert last.source("a") == f"model.layers.0.{LAYER[0]}"
    front, norm, head = (flow.flow(t) for t in AROUND)
    assert [f.model for f in front.feeds] == ["a"]
    assert [f.model for f in norm.feeds] == [f.model for f in head.feeds] == ["b", ""]
    assert (front.depth, front.own("weight", "a"), front.shared("t")) == (0.0, 0.0, 0.0)
    assert (head.own("weight", "b"), head.shared("t")) == (9.0, 0.9)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([{"sources": [source("a", 2, 5)]}], r"slices\[0\]: .*\[2, 5\] of 'a' goes beyond its 4 l"),
        ([{"sources": [source("c", 0, 1)]}], r"unknown model 'c'"),
        (
            [{"sources": [source("a", 0, 1), source("hub/a", 1, 2)]}],
            r"slices\[0\]: 'a' is listed twice, under different names",
        ),
    ],
)
def test_refusals(slices: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        flows({"merge_method": "linear", "slices": slices}, llama(4))


def test_only_layers_of_one_kind_are_merged_and_only_one_stack_is_sliced() -> None:
    both = [{"sources": [source("a", 0, 1), source("b", 1, 2)]}]
    dense = Anatomy.of(["layers.0.mlp.w", "layers.1.mlp.gate", "layers.1.mlp.w"], 2)
    with pytest.raises(SpaceError, match=r"layers 0 and 1 are built differently.*'mlp.gate'"):
        flows({"merge_method": "linear", "slices": both}, dense)
    towers = Anatomy.of(["vision.layers.0.w", "text.layers.0.w", "text.layers.1.w"], 2)
    with pytest.raises(SpaceError, match=r"layers under text.layers, vision.layers"):
        flows({"merge_method": "linear", "slices": both}, towers)
    extra = Anatomy.of(["layers.0.w", "layers.1.w", "layers.2.w"], 2)  # of another kind of layer
    with pytest.raises(SpaceError, match=r"'layers.2.w' belongs to no layer of the model"):
        flows({"merge_method": "linear", "slices": [{"sources": [source("a", 0, 2)]}] * 2}, extra)


@pytest.mark.peers
def test_front_and_end_are_those_of_mergekit() -> None:
    definitions = pytest.importorskip("mergekit.architecture.json_definitions")
    checked = 0
    for architecture in definitions.JSON_ARCHITECTURES:
        if not any("CausalLM" in a or "LMHead" in a for a in architecture.architectures):
            continue
        for part in architecture.modules.values():
            definition = part.architecture.definition
            front = {w.name for w in definition.pre_weights} - {"model.embedding_norm.weight"}
            assert all(is_front(name) for name in front), architecture.architectures
            assert not any(is_front(w.name) for w in definition.post_weights)
            checked += len(front)
    assert checked > 30
    # mergekit counts LFM2's final norm to the embeddings, though it is applied after the layers
    assert not is_front("model.embedding_norm.weight")


def test_configs_follow_their_layers() -> None:
    config = {
        "num_hidden_layers": 3,
        "layer_types": ["full", "sliding", "linear"],
        "mlp_only_layers": [0, 2],
        "eos_token_id": [1, 2, 3],
        "hidden_size": 3,
    }
    new = restacked(config, (2, 0, 0, 1))
    assert new == {
        "num_hidden_layers": 4,
        "layer_types": ["linear", "full", "full", "sliding"],
        "mlp_only_layers": [0, 1, 2],
        "eos_token_id": [1, 2, 3],
        "hidden_size": 3,
    }
    assert restacked({"text_config": config}, (2, 0, 0, 1)) == {"text_config": new}
    assert restacked(config, (0, 1, 2)) == config


def weights(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def merged(recipe: Recipe, flow: Flow, tensors: Mapping[str, dict[str, Tensor]]) -> Tensor:
    """`linear` and `passthrough` by their formulas, in float64."""
    inputs = {f.model: tensors[f.model][f.tensor].double() for f in flow.feeds}
    if recipe.merge_method == "passthrough":
        (model,) = inputs
        scale = flow.own("scale", model)
        return inputs[model] * (1.0 if scale is None else float(scale))
    own = {m: float(flow.own("weight", m) or 0.0) for m in inputs}
    total = sum(own.values()) if flow.shared("normalize") is not False else 1.0
    return torch.stack([x * own[m] for m, x in inputs.items()]).sum(0) / total


def config(seed: int, family: Mapping[str, str], n_layers: int) -> dict[str, Any]:
    rng = random.Random(seed)

    def value(low: float) -> Any:
        numbers = [round(rng.uniform(low, 1.5), 3) for _ in range(rng.choice([1, 1, 2, 3]))]
        return numbers if len(numbers) > 1 else numbers[0]

    def spec() -> Any:
        if rng.random() < 0.5:
            return value(0.2)
        names = rng.sample(["mlp", "self_attn", "layers.1", "layers.2", "embed", "norm"], 2)
        return [{"filter": n, "value": value(0.2)} for n in names]

    method = rng.choice(["linear", "linear", "passthrough"])
    name = "weight" if method == "linear" else "scale"
    pieces = []
    for _ in range(rng.choice([1, 2, 3])):
        length = rng.randint(1, n_layers)
        models = rng.sample(sorted(family), rng.randint(1, 3) if method == "linear" else 1)
        starts = {m: rng.randint(0, n_layers - length) for m in models}
        own = [{name: spec()} if rng.random() < 0.7 else {} for _ in models]
        pieces.append(
            {
                "sources": [
                    source(family[m], i, i + length, **p)
                    for (m, i), p in zip(starts.items(), own, strict=True)
                ],
                "parameters": {name: spec()} if rng.random() < 0.5 else {},
            }
        )
    shared = {name: value(0.2)} | ({"normalize": rng.random() < 0.5} if name == "weight" else {})
    return {"merge_method": method, "slices": pieces, "parameters": shared, "dtype": "float32"}


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_stacks_are_those_of_mergekit(seed: int, family: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    data = config(seed, family, 3)
    run_merge(
        MergeConfiguration.model_validate(data),
        str(tmp_path / "out"),
        MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False),
    )
    theirs = {
        k: v for f in (tmp_path / "out").glob("*.safetensors") for k, v in load_file(f).items()
    }
    tensors = {folder: weights(folder) for folder in family.values()}
    base = tensors[family["base"]]
    recipe = Recipe.from_dict(data)
    flow = DataFlow.of(recipe, Anatomy.of(base, 3), {f: f for f in tensors}, family["base"])
    assert set(flow.anatomy.tensors) == set(theirs), json.dumps(data)
    fewer = len(recipe.slices[0].sources) < len(recipe.slices[-1].sources)
    for name, expected in theirs.items():
        if name == "model.norm.weight" and fewer:
            continue  # mergekit then leaves out the last slice's further sources
        ours = merged(recipe, flow.flow(name), tensors).float()
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6, msg=json.dumps(data))
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    base_config = json.loads((Path(family["base"]) / "config.json").read_text())
    assert made["num_hidden_layers"] == restacked(base_config, flow.layers)["num_hidden_layers"]


def test_folded_scales_are_scales_of_the_residual_stream(family: dict[str, str]) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    slots = [Slot("a", 0), Slot("b", 2, 0.7), Slot("b", 2, 1.8), Slot("a", 1, 0.4), Slot("a", 2)]
    models = {
        m: AutoModelForCausalLM.from_pretrained(family[m], dtype=torch.float64) for m in ("a", "b")
    }
    tensors = {m: weights(family[m]) for m in models}
    anatomy = Anatomy.of(tensors["a"], 3)
    recipe = stack(slots, anatomy)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert [part.n_layers for part in recipe.slices] == [1, 1, 1, 2]
    flow = DataFlow.of(recipe, anatomy, {m: m for m in models}, "a")
    old = models["a"].config.to_dict() | {"tie_word_embeddings": False, "dtype": "float64"}
    folded = LlamaForCausalLM(LlamaConfig(**restacked(old, flow.layers))).double()
    made = {t: merged(recipe, flow.flow(t), tensors) for t in flow.anatomy.tensors}
    made["lm_head.weight"] = made["model.embed_tokens.weight"]
    folded.load_state_dict(made)
    for module in (m for model in (folded, *models.values()) for m in model.modules()):
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.0  # the fold is exact up to the norms' epsilon
    ids = torch.randint(0, 67, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = models["a"].model
        x = parts.embed_tokens(ids)
        position = parts.rotary_emb(x, torch.arange(9)[None])
        mask = torch.full((9, 9), -torch.inf, dtype=x.dtype).triu(1)[None, None]
        for slot in slots:
            layer = models[slot.model].model.layers[slot.layer]
            x = layer(slot.scale * x, attention_mask=mask, position_embeddings=position)
        expected = models["a"].lm_head(parts.norm(x))
        torch.testing.assert_close(folded(ids).logits, expected)
        unscaled = stack([Slot(s.model, s.layer) for s in slots], anatomy)
        assert all(not s.parameters for s in unscaled.sources)


def test_paths_are_checked() -> None:
    with pytest.raises(SpaceError, match="at least one slot"):
        stack([], llama(2))
    with pytest.raises(SpaceError, match="'a' has layers 0 to 1, got 2"):
        stack([Slot("a", 2)], llama(2))
    with pytest.raises(SpaceError, match=r"positive and finite, got -1"):
        stack([Slot("a", 0, -1)], llama(2))
    unknown = Anatomy.of(["layers.0.mixer.weight"], 1)
    assert stack([Slot("a", 0)], unknown).slices[0].n_layers == 1
    with pytest.raises(SpaceError, match=r"layer 0 .* by none of the known names"):
        stack([Slot("a", 0, 2.0)], unknown)
    normed = Anatomy.of([*llama(1).tensors, "model.layers.0.post_feedforward_layernorm.weight"], 1)
    with pytest.raises(SpaceError, match="norms what its layers write"):
        stack([Slot("a", 0, 2.0)], normed)
