"""No preset searches what changes nothing; declarations of what cancels out hold in the merge."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from test_methods import ROWS
from test_spaces import LLAMA, space_of

from evoaim.engine import MergeEngine
from evoaim.importance import Importance
from evoaim.methods import facts
from evoaim.optimizers._cube import UnitCube
from evoaim.registry import METHODS
from search_spaces.build import Layout, build_space, preset_names, read_preset
from search_spaces.errors import SpaceError
from search_spaces.genes import Choice, Gene, Genome, Real, Whole, canonical
from search_spaces.hygiene import count_genomes, null_directions
from search_spaces.parameters import ALWAYS
from search_spaces.space import Models, SearchSpace
from tests.merging.row import inputs, merge, tensors

# Only the order of the experts' priorities matters, and that only where it changes.
ORDER = "priority"
# A small model has too few layers for them: they say how many bottom and top layers differ.
COUNTS = {"bottom", "top"}


@pytest.mark.parametrize("method", [m for m in METHODS if "weight" in METHODS[m].PARAMETERS])
def test_declared_ratios_are_all_that_matters_and_others_are_not(method: str) -> None:
    declared = METHODS[method].PARAMETERS
    x, cause = tensors((33, 17), seed=1), declared["weight"].relative
    for on in (True, False):
        fixed: dict[str, Any] = {cause: on} if cause in declared else {}
        fixed |= {"floor": 0.0} if method == "sce" else {}
        given = inputs(method, ROWS[method], 0.5, fixed)
        given = replace(given, base=None) if METHODS[method].BASE == "point" else given
        own = {m: {**v, "weight": 0.5 * float(v["weight"])} for m, v in given.own.items()}
        halved = replace(given, own=own)
        same = torch.allclose(merge(method, x, given), merge(method, x, halved), atol=1e-6)
        relative = cause == ALWAYS or (cause in declared and on)
        assert same == (relative or method == "karcher"), "in a space, karcher's base has a weight"
        if "lambda" in declared and not relative:
            twice = {**halved.shared, "lambda": 2 * float(halved.shared["lambda"])}
            product = merge(method, x, replace(halved, shared=twice))
            torch.testing.assert_close(merge(method, x, given), product, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def engine(family: dict[str, str]) -> MergeEngine:
    plain = MergeEngine.from_pretrained(family["base"], {n: family[n] for n in "abc"}, "cpu")
    g = torch.Generator().manual_seed(0)
    weights = dict(plain.live.named_parameters())
    rows = {k: torch.rand(v.shape[-1], generator=g) for k, v in weights.items() if "proj" in k}
    return plain.with_importance(Importance(rows))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("preset", preset_names())
def test_every_gene_and_pair_of_genes_of_a_preset_matters(
    engine: MergeEngine, preset: str, n: int
) -> None:
    models = Models(engine.base.name, {e: engine.experts[e].name for e in "abc"[:n]})
    space = build_space(read_preset(preset), Layout(), facts, models, engine.anatomy)
    assert null_directions(space) == []
    methods = [m.name for m in space.methods]
    units = {g.name: 0.35 + 0.3 * ((i * 0.618) % 1) for i, g in enumerate(space.genes)}
    units["k"] = 0.9  # of two experts, one always needs an element
    for method in methods:
        middle = {g.name: g.decode(units[g.name]) for g in space.genes} | {"method": method}
        start = canonical(space.genes, middle)
        weights = merged(engine, space, start)
        active = [g for g in space.genes if g.name in start and not isinstance(g, Choice)]
        active = [g for g in active if g.name.partition(".")[0] not in {ORDER, *COUNTS}]
        for changed in directions(active, start):
            genome = canonical(space.genes, {**middle, **changed})
            if genome != start:
                found = merged(engine, space, genome)
                assert not torch.allclose(found, weights, rtol=0, atol=1e-7), (method, changed)


def directions(genes: list[Gene], start: Genome) -> list[dict[str, float]]:
    """Every gene alone, all pairs in the same and in opposite directions, by factors."""
    step = {g.name: 1.0 if isinstance(g, Whole) else 0.2 * float(start[g.name]) for g in genes}
    down = {n: -s if isinstance(start[n], int) else -s / 1.2 for n, s in step.items()}
    moved = [{n: float(start[n]) + s} for n, s in step.items()]
    for a, b in combinations(step, 2):
        moved.append({a: float(start[a]) + step[a], b: float(start[b]) + step[b]})
        moved.append({a: float(start[a]) + step[a], b: float(start[b]) + down[b]})
    return moved


def merged(engine: MergeEngine, space: SearchSpace, genome: Genome) -> torch.Tensor:
    with engine.materialize(space.decode(genome)) as live:
        return torch.cat([p.detach().flatten() for p in live.parameters()])


def test_genomes_of_one_recipe_are_one_genome() -> None:
    space = space_of("ties_aim", Layout(2), 3)
    assert all(g.ratio for g in space.genes if g.name.startswith("weight"))  # type: ignore[union-attr]
    genome = dict(space.seeds()[0])
    small = canonical(space.genes, genome | {"weight.a.g0": 0.4, "weight.b.g0": 0.1})
    large = canonical(space.genes, genome | {"weight.a.g0": 1.2, "weight.b.g0": 0.3})
    assert small == large
    assert canonical(space.genes, small) == small
    assert (small["weight.a.g0"], small["weight.b.g0"]) == (1.0, 0.25)
    assert [small[f"weight.{e}.g1"] for e in "abc"] == [1.0, 0.0, 0.0], "a cell of its own"
    none = {f"weight.{e}.{c}": 0.0 for e in "abc" for c in ("g0", "g1", "rest")}
    assert canonical(space.genes, genome | none) == genome | none, "the base"


@pytest.mark.parametrize("preset", ["ties_aim", "task_arithmetic_aim", "mixed_aim"])
def test_with_deltas_points_and_genomes_correspond_and_cells_move_together(preset: str) -> None:
    layout = Layout(3)
    plain = space_of(preset, layout, 3)
    space = space_of({**read_preset(preset), "encoding": "delta"}, layout, 3)
    assert [g.name for g in space.genes] == [g.name for g in plain.genes]
    assert space.seeds() == plain.seeds()
    cube, rng = UnitCube(space.genes), np.random.default_rng(0)
    extreme = UnitCube(plain.genes).genome(np.arange(len(plain.genes)) % 2 * 1.0)
    for genome in [*space.seeds(), extreme, *map(cube.genome, rng.random((50, len(space.genes))))]:
        assert cube.genome(cube.points([genome])[0]) == genome
    for point in rng.random((20, len(space.genes))):
        assert cube.genome(cube.settled(point)) == cube.genome(point)
    names = [g.name for g in space.genes]
    point = cube.points([space.seeds()[3]])[0]  # the mean, in all cells the same
    moved = point.copy()
    moved[names.index("omega.g0")] = 0.25
    assert {v for k, v in cube.genome(moved).items() if k.startswith("omega")} == {0.25}
    with pytest.raises(SpaceError, match="unknown encoding 'detla'; did you mean 'delta'"):
        space_of({**read_preset(preset), "encoding": "detla"}, layout, 3)


def test_a_lone_expert_has_no_weight_to_search_where_weights_are_normalised() -> None:
    names = [g.name for g in space_of("ties_aim", Layout(), 1).genes]
    assert names == ["density.a", "lambda", "omega"]
    names = [g.name for g in space_of("task_arithmetic_aim", Layout(), 1).genes]
    assert names == ["weight.a", "omega"]
    (k,) = [g for g in space_of("consensus_aim", Layout(), 2).genes if g.name == "k"]
    assert k == Whole("k", 1, 2), "more experts than there are cannot need an element"
    with pytest.raises(SpaceError, match=r"single expert.*nothing is left to search"):
        space_of({"method": "linear", "genes": {"weight": {"per": ["expert"]}}}, Layout(), 1)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"method": "task_arithmetic", "genes": {"weight": {"per": ["expert"]}, "lambda": {}}},
            "only the product of lambda and weight counts with task_arithmetic",
        ),
        (
            {"method": "ties", "genes": {"weight": {}, "density": {}}},
            "weight common to all experts has no effect with ties while normalize is true",
        ),
        (
            {"method": "ties", "genes": {"weight": {"per": "expert", "low": 0.2}}},
            "a common scale of all experts' weight has no effect with ties",
        ),
        (
            {
                "method": "della",
                "genes": {"weight": {"per": "expert"}, "epsilon": {"low": 0, "high": 0.1}}
                | {"spread": {}},
            },
            "only a sum of epsilon and spread counts with della",
        ),
        (
            {"method": "task_arithmetic", "genes": {"weight": {}, "gamma": {}}},
            "gamma has no effect without omega",
        ),
        (
            {
                "method": "dare_ties",
                "genes": {"weight": {"per": "expert"}, "rescale_by": {}},
                "fixed": {"rescale": False},
            },
            "rescale_by has no effect with dare_ties while rescale is false",
        ),
    ],
)
def test_null_directions_are_named(block: dict[str, Any], message: str) -> None:
    (found,) = null_directions(space_of(block, Layout(), 2, LLAMA))
    assert found.startswith(message)


def test_genomes_are_counted_with_their_conditions() -> None:
    switch = {"method": ["ties", "task_arithmetic"], "genes": {"normalize": {}, "vote": {}}}
    space = space_of(switch | {"fixed": {"weight": 1.0}}, Layout())
    assert count_genomes(space.genes, 100) == 2 * 2 + 2
    assert count_genomes(space.genes, 6) == 6
    assert count_genomes(space.genes, 5) is None
    counted = (Whole("k", 1, 3), Choice("c", ("x", "y", "z")))
    assert count_genomes(counted, 100) == 9
    grid = (Real("w", 0.0, 0.0107, step=1e-3),)
    assert len({grid[0].decode(i / 9999) for i in range(10000)}) == count_genomes(grid, 100) == 12
    assert count_genomes((Real("w", 0.0, 1.0, log=False),), 10**9) is None
