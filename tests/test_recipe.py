"""Recipes: reading and writing lose nothing, settings resolve as mergekit's, refusals are clear."""

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import strict_yaml
from search_spaces.errors import SpaceError
from search_spaces.recipe import (
    Aim,
    Recipe,
    Slice,
    SliceSource,
    Source,
    Spec,
    scalars,
    value_at,
)
from search_spaces.tokenizer_spec import CHAT_TEMPLATES, TokenizerSpec, TokenRule, TokenSource

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
words = st.sampled_from(["magnitude", "rank"])
parameters = st.dictionaries(
    names, specs(numbers) | specs(st.booleans()) | specs(words), max_size=3
)
optional_names = st.none() | names
aims = st.builds(
    Aim,
    specs(st.floats(0, 1)),
    specs(st.floats(0.01, 100)),
    optional_names,
    optional_names,
    specs(st.sampled_from(["mean_abs", "rms"])),
    specs(st.sampled_from(["max", "rank"])),
)
token_sources = st.one_of(
    st.builds(TokenSource, st.just("zero")),
    st.builds(TokenSource, st.just("model"), names),
    st.builds(TokenSource, st.just("model_token"), names, names | st.integers(0, 9)),
)
tokenizers = st.builds(
    TokenizerSpec,
    st.sampled_from(["base", "union"]) | names,
    st.dictionaries(
        names,
        st.just(TokenRule()) | st.builds(TokenRule, token_sources, st.booleans()),
        max_size=2,
    ),
    st.none() | st.integers(1, 64),
)
templates = st.sampled_from([None, "auto", *CHAT_TEMPLATES, "{% for m in messages %}\n{{ m }}"])
models = st.lists(
    st.builds(Source, names, parameters), min_size=1, max_size=3, unique_by=lambda s: s.model
).map(tuple)


@st.composite
def slices(draw: st.DrawFn) -> Slice:
    length = draw(st.integers(1, 5))
    starts = draw(st.dictionaries(names, st.integers(0, 9), min_size=1, max_size=3))
    return Slice(
        tuple(SliceSource(m, (i, i + length), draw(parameters)) for m, i in starts.items()),
        draw(parameters),
    )


@st.composite
def recipes_of(draw: st.DrawFn) -> Recipe:
    stacked = draw(st.booleans())
    return Recipe(
        draw(names),
        () if stacked else draw(models),
        draw(optional_names),
        draw(parameters),
        draw(st.none() | aims),
        draw(st.integers(-(2**40), 2**40)),
        draw(st.sampled_from([None, "float32", "bfloat16"])),
        draw(st.sampled_from([None, "float16"])),
        tuple(draw(st.lists(slices(), min_size=1, max_size=3))) if stacked else (),
        draw(st.none() | tokenizers),
        draw(templates),
    )


recipes = recipes_of()


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
    assert Recipe.from_dict(plain).sources == recipe.sources


@laws
@given(recipes)
def test_renaming_back_gives_the_same_recipe(recipe: Recipe) -> None:
    there = {n: f"models/{n}/" for n in {*recipe.model_names, *_others(recipe)}}
    moved = recipe.renamed(there)
    assert moved.model_names == tuple(there[n] for n in recipe.model_names)
    assert moved.renamed({new: old for old, new in there.items()}) == recipe


def _others(recipe: Recipe) -> set[str]:
    tokens = set(recipe.tokenizer.models) if recipe.tokenizer else set()
    return tokens | ({recipe.aim.base_model} if recipe.aim and recipe.aim.base_model else set())


@pytest.mark.peers
@laws
@given(recipes)
def test_mergekit_reads_the_mergekit_form(recipe: Recipe) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = pytest.importorskip("mergekit.config")
    plain = recipe.renamed({n: f"m{ord(n[0])}x{len(n)}" for n in recipe.model_names}).to_mergekit()
    plain.pop("tokenizer", None), plain.pop("tokenizer_source", None)
    read = config.MergeConfiguration.model_validate(plain)
    assert len(read.slices or ()) == len(recipe.slices)
    assert len(read.models or ()) == len(recipe.models)


def test_short_forms_are_read() -> None:
    recipe = Recipe.from_dict(
        {
            "merge_method": "ties",
            "base_model": {"model": {"path": "base", "revision": None}, "lora": None},
            "models": ["a", {"model": "b", "parameters": {"weight": {"filter": "x", "value": 1}}}],
            "tokenizer": {
                "source": {"model": {"path": "b"}},
                "tokens": {
                    "<x>": {"source": {"model": {"path": "a"}}},
                    "<y>": {"source": {"kind": "model_token", "model": "a", "token_id": 0}},
                    "<z>": {},
                },
            },
            "aim": {},
        }
    )
    assert recipe.base_model == "base"
    assert recipe.models == (
        Source("a"),
        Source("b", {"weight": [{"filter": "x", "value": 1}]}),
    )
    assert recipe.aim == Aim(omega=1.0, gamma=1.0)
    assert recipe.tokenizer == TokenizerSpec(
        "b",
        {
            "<x>": TokenRule(TokenSource("model", "a")),
            "<y>": TokenRule(TokenSource("model_token", "a", 0)),
            "<z>": TokenRule(),
        },
    )
    short = {"merge_method": "ties", "models": ["a"], "tokenizer_source": "base"}
    assert Recipe.from_dict(short).tokenizer == TokenizerSpec("base")


def test_models_are_counted_once_and_parameters_all() -> None:
    recipe = Recipe.from_dict(
        {
            "merge_method": "slerp",
            "base_model": "a",
            "parameters": {"t": 0.1},
            "slices": [
                {
                    "sources": [
                        {"model": m, "layer_range": [0, 2], "parameters": {"weight": i}}
                        for i, m in enumerate(["b", "a"])
                    ],
                    "parameters": {"t": 0.2},
                },
                {"sources": [{"model": "c", "layer_range": [3, 4]}]},
            ],
        }
    )
    assert recipe.model_names == ("a", "b", "c")
    assert [s.model for s in recipe.sources] == ["b", "a", "c"]
    given = [dict(p) for p in recipe.all_parameters]
    assert given == [{"t": 0.1}, {"t": 0.2}, {}, {"weight": 0}, {"weight": 1}, {}]
    assert [part.n_layers for part in recipe.slices] == [2, 1]


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
    specs(numbers) | specs(st.booleans()) | specs(words),
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
    kind = next(iter(map(type, scalars(spec))))
    read = kind if kind in (bool, str) else float
    expected = config.evaluate_setting(tensor, theirs, depth, validate=read)
    value = value_at(spec, tensor, depth)
    if kind in (bool, str) or expected is None:
        assert value == expected
        assert type(value) is type(expected)
    else:
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-5)


GOOD = {"merge_method": "ties", "models": [{"model": "a"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_metod": "ties"}, r"unknown key 'merge_metod'; did you mean 'merge_method'\?"),
        ({"merge_method": None}, r"merge_method: a name expected, got None"),
        ({"merge_method": 3}, r"merge_method: a name expected, got 3"),
        ({"modules": {"x": 1}}, r"'modules' of mergekit configs: is not supported; list the"),
        ({"experts": []}, r"'experts' of mergekit configs: building a mixture of experts is not"),
        ({"slices": [{}]}, r"give models or slices, not both"),
        ({"tokenizer_source": 5}, r"tokenizer_source: a path, hub id or short name expected"),
        ({"tokenizer_source": "base", "tokenizer": {}}, r"tokenizer_source or tokenizer, not both"),
        ({"tokenizer": []}, r"tokenizer: 'source: union' or the like expected, got \[\]"),
        ({"tokenizer": {"sauce": 1}}, r"tokenizer: unknown key 'sauce'; did you mean 'source'"),
        ({"tokenizer": {"tokens": {5: {}}}}, r"tokenizer: tokens: 'TEXT: \{source: ...\}' exp"),
        ({"tokenizer": {"tokens": {"x": "a"}}}, r"tokens: 'x': \{source: ..., force: ...\} exp"),
        ({"tokenizer": {"tokens": {"x": {"forse": 1}}}}, r"'x': unknown key 'forse'; did you mean"),
        ({"tokenizer": {"tokens": {"x": {"force": True}}}}, r"'x': force needs a source"),
        ({"tokenizer": {"tokens": {"x": {"force": 1}}}}, r"'x': force: true or false expected"),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "one"}}}}},
            r"'x': source: unknown kind 'one' .allowed: model_token, zero",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "zero", "model": "a"}}}}},
            r"source: unknown key 'model'",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "model": "a"}}}}},
            r"source: either token: TEXT or token_id: NUMBER expected",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "token": "y"}}}}},
            r"source: 'model' is missing",
        ),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, r"pad_to_multiple_of: a positive whole number"),
        ({"chat_template": "chatmi"}, r"chat_template: auto, one of alpaca, chatml, .* 'chatmi'"),
        ({"chat_template": 5}, r"chat_template: auto, one of"),
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
        ({"parameters": {"weight": ""}}, r"parameters: weight: a number, true/false, a name, a"),
        ({"parameters": {"weight": []}}, r"weight: a number, true/false, a name, a list or filt"),
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
        ({"aim": {"omega": "high"}}, r"'omega': a number expected, got 'high'"),
        ({"aim": {"statistic": "mean"}}, r"'statistic': one of mean_abs, .* got 'mean'"),
        ({"aim": {"importance": 5}}, r"aim: importance: a path"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=f"^here: .*{message}"):
        Recipe.from_dict(GOOD | change, where="here")


SOURCE = {"model": "a", "layer_range": [0, 2]}


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([], r"slices: a list of at least one slice expected"),
        ([5], r"slices\[0\]: 'sources: \[...\]' expected, got 5"),
        ([{"sauces": []}], r"slices\[0\]: unknown key 'sauces'; did you mean 'sources'"),
        ([{"sources": []}], r"slices\[0\]: sources: a list of at least one source"),
        ([{"sources": [SOURCE], "base_model": "a"}], r"'base_model' of mergekit's slices is not s"),
        (
            [{"sources": [SOURCE], "residual_weight": 1.0}],
            r"'residual_weight' .*: leave it out|mer",
        ),
        ([{"sources": ["a"]}], r"sources\[0\]: 'model: NAME' expected, got 'a'"),
        ([{"sources": [{"model": "a"}]}], r"layer_range: \[first, last \+ 1\] in whole numbers"),
        ([{"sources": [{"layer_range": [0, 2]}]}], r"sources\[0\]: 'model' is missing"),
        ([{"sources": [SOURCE | {"layer_range": [0, 2.0]}]}], r"layer_range: .* got \[0, 2.0\]"),
        ([{"sources": [SOURCE | {"layer_range": [2, 2]}]}], r"layer_range: \[2, 2\] holds no lay"),
        ([{"sources": [SOURCE | {"layer_range": [-1, 2]}]}], r"layer_range: \[-1, 2\] holds no"),
        ([{"sources": [SOURCE, SOURCE]}], r"slices\[0\]: sources: 'a' is listed twice"),
        (
            [{"sources": [SOURCE, {"model": "b", "layer_range": [0, 3]}]}],
            r"slices\[0\]: .* equally many layers, got 2 of 'a', 3 of 'b'",
        ),
        (
            [{"sources": [SOURCE | {"parameters": {"weight": None}}]}],
            r"slices\[0\]: sources\[0\]: parameters: weight: a number",
        ),
    ],
)
def test_refusals_of_slices(slices: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=f"^here: .*{message}"):
        Recipe.from_dict({"merge_method": "linear", "slices": slices}, where="here")
