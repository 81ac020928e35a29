"""Recipes: reading and writing lose nothing, settings resolve as mergekit's, refusals are clear."""

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import strict_yaml
from search_spaces.errors import SpaceError
from search_spaces.recipe import Aim, Recipe, Source, Spec, scalars, value_at

TENSORS = [
    "model.embed_tokens.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.10.mlp.up_proj.weight",
    "lm_head.weight",
]
laws = settings(deadline=None, max_examples=80)
numbers = st.floats(-1e3, 1e3) | st.integers(-9, 9)
patterns = st.sampled_from([None, "*", "", ".mlp.", "self_attn", "layers.1", "lm_head", "nowhere"])


def specs(scalar: st.SearchStrategy[Any]) -> st.SearchStrategy[Spec]:
    setting = scalar | st.lists(scalar, min_size=1, max_size=5)
    entry = st.builds(
        lambda f, v: {"value": v} if f is None else {"filter": f, "value": v}, patterns, setting
    )
    return setting | st.lists(entry, min_size=1, max_size=3)


names = st.text(min_size=1, max_size=8)
parameters = st.dictionaries(names, specs(numbers) | specs(st.booleans()), max_size=3)
optional_names = st.none() | names
aims = st.builds(
    Aim, specs(st.floats(0, 1)), specs(st.floats(0.01, 100)), optional_names, optional_names
)
recipes = st.builds(
    Recipe,
    names,
    st.lists(
        st.builds(Source, names, parameters), min_size=1, max_size=3, unique_by=lambda s: s.model
    ).map(tuple),
    optional_names,
    parameters,
    st.none() | aims,
    st.integers(-(2**40), 2**40),
    st.sampled_from([None, "float32", "bfloat16"]),
    st.sampled_from([None, "float16"]),
)


@laws
@given(recipes)
def test_reading_what_was_written_gives_an_equal_recipe(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(strict_yaml.parse(recipe.to_yaml(), "here")) == recipe


@laws
@given(recipes)
def test_the_mergekit_form_is_the_recipe_without_aim_and_seed(recipe: Recipe) -> None:
    whole, plain = recipe.to_dict(), recipe.to_mergekit()
    assert {k: v for k, v in whole.items() if k not in ("aim", "seed")} == plain
    assert Recipe.from_dict(plain).models == recipe.models


def test_short_forms_are_read() -> None:
    recipe = Recipe.from_dict(
        {
            "merge_method": "ties",
            "base_model": {"model": {"path": "base", "revision": None}, "lora": None},
            "models": ["a", {"model": "b", "parameters": {"weight": {"filter": "x", "value": 1}}}],
            "tokenizer_source": "base",
            "aim": {},
        }
    )
    assert recipe.base_model == "base"
    assert recipe.models == (
        Source("a"),
        Source("b", {"weight": [{"filter": "x", "value": 1}]}),
    )
    assert recipe.aim == Aim(omega=1.0, gamma=1.0)


def test_a_gradient_with_one_entry_a_layer_gives_every_layer_its_own() -> None:
    for n in range(1, 130):
        spec = [0.1 + i for i in range(n)]
        depths = [i / (n - 1) for i in range(n)] if n > 1 else [1.0]
        assert [value_at(spec, "t", d) for d in depths] == spec


@laws
@given(specs(numbers), st.sampled_from(TENSORS), st.floats(0, 1))
def test_settings_resolve_to_what_they_hold(spec: Spec, tensor: str, depth: float) -> None:
    value = value_at(spec, tensor, depth)
    held = list(scalars(spec))
    assert value is None or min(held) - 1e-9 <= value <= max(held) + 1e-9
    if not isinstance(spec, list):
        assert value == spec


@pytest.mark.peers
@laws
@given(
    specs(numbers) | specs(st.booleans()),
    st.sampled_from(TENSORS),
    st.floats(0, 1) | st.integers(0, 31).map(lambda i: i / 31),
)
def test_settings_resolve_as_in_mergekit(spec: Spec, tensor: str, depth: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = pytest.importorskip("mergekit.config")
    theirs = spec
    if isinstance(spec, list) and isinstance(spec[0], dict):
        theirs = [config.ConditionalParameter(**entry) for entry in spec]
    switch = any(isinstance(v, bool) for v in scalars(spec))
    expected = config.evaluate_setting(tensor, theirs, depth, validate=bool if switch else float)
    value = value_at(spec, tensor, depth)
    if switch or expected is None:
        assert value is expected
    else:
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-5)


GOOD = {"merge_method": "ties", "models": [{"model": "a"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_metod": "ties"}, r"unknown key 'merge_metod'; did you mean 'merge_method'\?"),
        ({"merge_method": None}, r"merge_method: a name expected, got None"),
        ({"merge_method": 3}, r"merge_method: a name expected, got 3"),
        ({"slices": []}, r"'slices' of mergekit configs is not supported yet"),
        ({"tokenizer_source": "union"}, r"tokenizer_source 'union' is not supported"),
        ({"models": []}, r"models: a list of at least one model"),
        ({"models": {"a": 1}}, r"models: a list"),
        ({"models": None}, r"models: a list"),
        ({"models": [5]}, r"models\[0\]: 'model: NAME' expected, got 5"),
        ({"models": [{"modle": "a"}]}, r"models\[0\]: unknown key 'modle'; did you mean 'model'"),
        ({"models": [{"parameters": {}}]}, r"models\[0\]: 'model' is missing"),
        ({"models": ["a", {"model": "a"}]}, r"models: 'a' is listed twice"),
        ({"models": [{"model": ""}]}, r"models\[0\]: model: a path, hub id or short name"),
        ({"models": [{"model": "a", "parameters": 5}]}, r"parameters: 'name: value' expected"),
        ({"base_model": 5}, r"base_model: a path, hub id or short name expected, got 5"),
        (
            {"base_model": {"model": {"path": "x"}, "lora": {"model": {"path": "y"}}}},
            r"base_model: 'lora' of mergekit configs is not supported yet",
        ),
        (
            {"base_model": {"model": {"path": "x", "revision": "main"}}},
            r"'revision' of mergekit configs is not supported yet",
        ),
        ({"parameters": {"weight": "x"}}, r"parameters: weight: a number, true/false, a list or"),
        ({"parameters": {"weight": []}}, r"weight: a number, true/false, a list or filters"),
        ({"parameters": {"weight": float("nan")}}, r"weight: must be finite, got nan"),
        ({"parameters": {"weight": [1.0, float("inf")]}}, r"weight: must be finite, got inf"),
        ({"parameters": {"weight": 10**400}}, r"weight: must be finite"),
        ({"parameters": {"weight": [1.0, "x"]}}, r"weight: a gradient holds numbers"),
        ({"parameters": {"weight": [1.0, True]}}, r"a gradient holds numbers \(or only true/false"),
        ({"parameters": {"weight": [1.0, {"value": 1}]}}, r"weight: a gradient holds numbers"),
        ({"parameters": {"weight": [{"filter": "x"}]}}, r"\{filter: TEXT, value: ...\} expected"),
        ({"parameters": {"weight": [{"value": 1, "fliter": "x"}]}}, r"filter: TEXT"),
        (
            {"parameters": {"weight": [{"value": 1, "filter": 3}]}},
            r"filter: a text expected, got 3",
        ),
        (
            {"parameters": {"weight": [{"value": [{"filter": "x", "value": 1}]}]}},
            r"a filter's value cannot hold filters",
        ),
        ({"parameters": {"weight": {"value": {"value": 1}}}}, r"cannot hold filters"),
        ({"seed": 1.5}, r"seed: a whole number expected, got 1.5"),
        ({"seed": True}, r"seed: a whole number expected, got True"),
        ({"dtype": "float64"}, r"dtype: one of float32, bfloat16, float16 expected, got 'float64'"),
        ({"out_dtype": ["float32"]}, r"out_dtype: one of float32"),
        ({"aim": 0.4}, r"aim: 'omega: NUMBER' expected, got 0.4"),
        ({"aim": {"omga": 1}}, r"aim: unknown key 'omga'; did you mean 'omega'"),
        ({"aim": {"omega": 1.1}}, r"aim: parameter 'omega': must lie in \[0, 1\], got 1.1"),
        ({"aim": {"omega": [0.1, -0.1]}}, r"'omega': must lie in \[0, 1\], got -0.1"),
        ({"aim": {"omega": [{"value": 2}]}}, r"'omega': must lie in \[0, 1\], got 2"),
        ({"aim": {"omega": True}}, r"'omega': a number expected, got True"),
        ({"aim": {"gamma": 0}}, r"'gamma': must lie in \[0.01, 100\], got 0"),
        ({"aim": {"importance": 5}}, r"aim: importance: a path"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=f"^here: .*{message}"):
        Recipe.from_dict(GOOD | change, where="here")
