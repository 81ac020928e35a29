"""Search spaces: genes, decoding cell by cell, seeds, presets, and what is refused."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoaim.errors import ConfigError
from evoaim.methods import facts
from evoaim.plan import BASE, Planner
from search_spaces.anatomy import Anatomy
from search_spaces.build import Layout, build_space, preset_names, read_preset
from search_spaces.errors import SpaceError
from search_spaces.genes import Genome, Value, canonical
from search_spaces.hygiene import null_directions
from search_spaces.parameters import AIM_PARAMETERS
from search_spaces.recipe import Recipe, scalars, value_at
from search_spaces.space import Models, Searched, SearchSpace


def anatomy(style: str, n_layers: int) -> Anatomy:
    """Tensor names as three families of checkpoints have them."""
    block, parts, outside = {
        "llama": (
            "model.layers.{}.",
            ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"),
            ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        ),
        "gpt2": (
            "h.{}.",
            ("attn.c_attn.weight", "mlp.c_fc.weight", "ln_1.weight"),
            ("wte.weight", "wpe.weight", "ln_f.weight"),
        ),
        "neox": (
            "gpt_neox.layers.{}.",
            ("attention.dense.weight", "mlp.dense_h_to_4h.weight", "input_layernorm.bias"),
            ("gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight", "embed_out.weight"),
        ),
    }[style]
    inside = [block.format(i) + p for i in range(n_layers) for p in parts]
    return Anatomy.of([outside[0], *inside, *outside[1:]], n_layers)


LLAMA = anatomy("llama", 4)
LAYOUTS = [Layout(), Layout(3), Layout(1, ("attn",)), Layout(4, ("mlp", "attn"))]
CASES = list(product(preset_names(), LAYOUTS, (1, 2, 3)))
IDS = [f"{p}-{lay.layer_groups}{'-'.join(lay.module_types)}-{n}" for p, lay, n in CASES]


def space_of(
    block: Mapping[str, Any] | str, layout: Layout, n: int = 2, model: Anatomy = LLAMA
) -> SearchSpace:
    block = read_preset(block) if isinstance(block, str) else block
    models = Models("hub/base", {e: f"hub/{e}" for e in "abc"[:n]})
    return build_space(block, layout, facts, models, model)


def genome_at(space: SearchSpace, units: list[float]) -> Genome:
    pairs = zip(space.genes, units, strict=False)
    return canonical(space.genes, {g.name: g.decode(u) for g, u in pairs})


def cell_of(model: Anatomy, s: Searched, layout: Layout, tensor: str) -> str | None:
    """The end of the gene's name that a tensor's cell has, written from the definition."""
    groups = "group" in s.per and layout.layer_groups > 1
    types = layout.module_types if "module" in s.per else ()
    if not groups and not types:
        return None
    layer = model.layer(tensor)
    kind = next((t for t in types if any(f in tensor for f in model.filters(t))), None)
    if layer is None or (types and kind is None):
        return "rest"
    group = f"g{layer * layout.layer_groups // model.n_layers}" if groups else None
    return ".".join(p for p in (group, kind) if p)


def check_cells(space: SearchSpace, layout: Layout, genome: Genome, recipe: Recipe) -> None:
    """Every parameter of every tensor is the value of its gene."""
    sources = {s.model.removeprefix("hub/"): s.parameters for s in recipe.models}
    aim = {"omega": recipe.aim.omega, "gamma": recipe.aim.gamma} if recipe.aim else {}
    for s in space.searched:
        if s.name not in aim and s.name not in facts(recipe.merge_method).parameters:
            continue
        experts = list(space.models.experts) if "expert" in s.per else [None]
        for expert, tensor in product(experts, space.anatomy.tensors):
            settings_ = sources[expert] if expert else {**recipe.parameters, **aim}
            end = cell_of(space.anatomy, s, layout, tensor)
            gene = ".".join(p for p in (s.name, expert, end) if p)
            value = value_at(settings_[s.name], tensor, space.anatomy.depth(tensor))
            assert value == genome[gene], (tensor, gene)


@pytest.mark.parametrize(("preset", "layout", "n"), CASES, ids=IDS)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_every_genome_decodes_to_its_genes_values(
    preset: str, layout: Layout, n: int, data: st.DataObject
) -> None:
    space = space_of(preset, layout, n)
    names = [g.name for g in space.genes]
    assert len(set(names)) == len(names)
    assert names == [g.name for g in space_of(preset, layout, n).genes]
    size = len(names)
    units = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    keys = {"hub/base": BASE, "hub/a": "a", "hub/b": "b", "hub/c": "c"}
    for corner in (units, [0.0] * size, [1.0] * size):
        genome = genome_at(space, corner)
        recipe = space.decode(genome)
        assert space.decode(dict(genome)) == recipe
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        check_cells(space, layout, genome, recipe)
        planner = Planner.of(recipe, keys, space.anatomy)
        for tensor in space.anatomy.tensors:
            planner.inputs(planner.data.flow(tensor))


@pytest.mark.parametrize(
    ("style", "n_layers"), [("llama", 1), ("llama", 49), ("gpt2", 3), ("neox", 24)]
)
def test_cells_in_other_models(style: str, n_layers: int) -> None:
    model = anatomy(style, n_layers)
    for layout in (Layout(min(n_layers, 5)), Layout(min(n_layers, 2), ("attn", "mlp"))):
        space = space_of("ties_aim", layout, 2, model)
        units = [(i * 0.618) % 1 for i in range(len(space.genes))]
        genome = genome_at(space, units)
        check_cells(space, layout, genome, space.decode(genome))


def test_gene_names_are_a_contract() -> None:
    space = space_of("ties_aim", Layout(2, ("attn",)))
    assert [g.name for g in space.genes] == [
        *(f"weight.{e}.{c}" for e in "ab" for c in ("g0.attn", "g1.attn", "rest")),
        "density.a",
        "density.b",
        "lambda",
        *(f"omega.{c}" for c in ("g0.attn", "g1.attn", "rest")),
    ]
    mixed = space_of("mixed_aim", Layout())
    assert [g.name for g in mixed.genes] == [
        *("method", "weight.a", "weight.b", "density.a", "density.b", "t", "omega")
    ]
    assert [g.name for g in space_of("slerp_aim", Layout(), 3).genes] == ["pair", "t", "omega"]
    values: dict[str, Value] = dict.fromkeys([g.name for g in mixed.genes], 0.5)
    active = canonical(mixed.genes, values | {"method": "slerp"})
    assert list(active) == ["method", "t", "omega"]


def test_slerp_starts_at_one_expert_and_relaxes_to_the_base() -> None:
    space = space_of("slerp_aim", Layout(), 3)
    recipe = space.decode({"pair": "a+c", "t": 0.3, "omega": 0.5})
    assert (recipe.base_model, recipe.models[1].model) == ("hub/a", "hub/c")
    assert recipe.aim is not None
    assert recipe.aim.base_model == "hub/base"
    alone = space_of("slerp_aim", Layout(), 1).decode({"t": 0.3, "omega": 0.5})
    assert (alone.base_model, [s.model for s in alone.models]) == (
        *("hub/base", ["hub/base", "hub/a"]),
    )


def test_ranges_and_fixed_values_can_be_overridden() -> None:
    block = {
        "method": ["ties", "task_arithmetic"],
        "genes": {
            "weight": {"low": -1, "high": 2.5, "per": "group"},
            "gamma": {"low": 0.5, "high": 2, "log": False},
            "lambda": None,
        },
        "fixed": {"density": 0.3, "normalize": False},
    }
    space = space_of(block, Layout(2))
    genes = {g.name: g for g in space.genes}
    assert list(genes) == ["method", "weight.g0", "weight.g1", "weight.rest", "gamma", "lambda"]
    assert (genes["weight.g0"].low, genes["weight.g0"].high) == (-1.0, 2.5)
    assert (genes["gamma"].log, genes["gamma"].step) == (False, 1e-3)
    assert (genes["lambda"].low, genes["lambda"].high) == (0.3, 2.0)
    values = dict.fromkeys(genes, 1.0) | {"weight.g1": -0.5}
    ties = space.decode(values | {"method": "ties"})
    assert ties.parameters["density"] == 0.3
    assert ties.parameters["normalize"] is False
    assert min(scalars(ties.parameters["weight"])) == -0.5
    assert all(not s.parameters for s in ties.models)
    plain = space.decode(values | {"method": "task_arithmetic"})
    assert "density" not in plain.parameters
    assert plain.parameters["normalize"] is False


def test_presets_search_omega_over_its_whole_range() -> None:
    for preset in preset_names():
        genes = [g for g in space_of(preset, Layout()).genes if g.name == "omega"]
        assert [(g.low, g.high) for g in genes] == [AIM_PARAMETERS["omega"].search]


TA = {"method": "task_arithmetic", "genes": {"weight": {}}}


def test_aim_is_held_at_a_value() -> None:
    space = space_of(TA | {"fixed": {"omega": 0.4, "statistic": "rms"}}, Layout())
    assert all(g.name.startswith("weight") for g in space.genes)
    for seed in space.seeds():
        aim = space.decode(seed).aim
        assert aim is not None
        assert (aim.omega, aim.statistic) == (0.4, "rms")
    gamma = {"method": "task_arithmetic", "genes": {"weight": {}, "gamma": {}}}
    assert null_directions(space_of(gamma, Layout()))
    assert not null_directions(space_of(gamma | {"fixed": {"omega": 0.4}}, Layout()))


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({"gens": {}}, Layout(), r"unknown key 'gens'; did you mean 'genes'\?"),
        ({"method": None}, Layout(), r"method: a name or a list of names expected, got None"),
        ({"method": ["ties", "ties"]}, Layout(), r"a method is listed twice"),
        ({"method": "tise"}, Layout(), r"unknown merge method 'tise'; did you mean 'ties'\?"),
        ({}, Layout(5), r"layer_groups: must lie in \[1, 4\].*got 5"),
        ({}, Layout(1, ("atn",)), r"unknown module type 'atn'; did you mean 'attn'\?"),
        ({}, Layout(1, ("attn", "attn")), r"module_types: listed twice"),
        ({"genes": [1]}, Layout(), r"genes: at least one 'parameter: \{...\}' expected"),
        ({"genes": {"wieght": {}}}, Layout(), r"unknown parameter 'wieght'; did you mean 'weight'"),
        ({"genes": {"density": {}}}, Layout(), r"genes.density: unknown parameter 'density'"),
        ({"genes": {"weight": 5}}, Layout(), r"\{low, high, log, per\} expected, got 5"),
        ({"genes": {"weight": {"hihg": 1}}}, Layout(), r"unknown key 'hihg'; did you mean 'high'"),
        ({"genes": {"weight": {"per": ["layer"]}}}, Layout(), r"per: unknown axis 'layer'"),
        ({"genes": {"weight": {"per": 5}}}, Layout(), r"per: a list of expert, group, module"),
        ({"genes": {"weight": {"per": None}}}, Layout(), r"per: a list of .* got None"),
        ({"genes": {"omega": {"per": ["expert"]}}}, Layout(), r"drop 'expert'"),
        ({"genes": {"weight": {"low": 1, "high": 0}}}, Layout(), r"low must be below high"),
        (
            {"genes": {"weight": {"low": "x"}}},
            Layout(),
            r"weight.low.*: a number expected, got 'x'",
        ),
        ({"genes": {"weight": {"high": 10**400}}}, Layout(), r"must lie in"),
        ({"genes": {"omega": {"high": 1.5}}}, Layout(), r"must lie in \[0, 1\], got 1.5"),
        ({"genes": {"weight": {"log": True}}}, Layout(), r"log needs low > 0, got 0"),
        ({"genes": {"weight": {"log": 1}}}, Layout(), r"log: true or false expected, got 1"),
        ({"genes": {"normalize": {"low": 0}}}, Layout(), r"is a choice, 'low' does not apply"),
        ({"genes": {"weight": {"options": [1, 2]}}}, Layout(), r"is a number, 'options' does not"),
        ({"genes": {"omega": {}}}, Layout(), r"task_arithmetic needs 'weight'"),
        ({"fixed": 5}, Layout(), r"fixed: 'parameter: value' expected, got 5"),
        ({"fixed": {"weight": 1}}, Layout(), r"fixed.weight: is searched already"),
        ({"fixed": {"omega": 1.4}}, Layout(), r"fixed.omega': must lie in \[0, 1\], got 1.4"),
        ({"fixed": {"normalise": True}}, Layout(), r"did you mean 'normalize'\?"),
        ({"fixed": {"normalize": 1}}, Layout(), r"true or false expected, got 1"),
    ],
)
def test_refusals(change: dict[str, Any], layout: Layout, message: str) -> None:
    with pytest.raises((SpaceError, ConfigError), match=message):
        space_of(TA | change, layout)


def test_refusals_of_the_model_and_of_names() -> None:
    opt = Anatomy.of(["model.decoder.layers.0.odd.weight"], 1)
    with pytest.raises(SpaceError, match=r"module type 'mlp': no tensor name .*leave it out"):
        space_of("ties_aim", Layout(1, ("mlp",)), 1, opt)
    with pytest.raises(SpaceError, match=r"unknown preset 'ties'; did you mean 'ties_aim'\?"):
        read_preset("ties")
