"""Seeds: what every search starts from, in which order, and how many they are."""

import math
from itertools import product
from typing import Any, cast

import pytest
import torch
from test_spaces import CASES, IDS, space_of

from evoaim import Experiment
from evoaim.engine import MergeEngine
from evoaim.evaluator import Evaluator
from evoaim.importance import Importance
from evoaim.methods import facts
from evoaim.parents import Parents
from evoaim.seed_weights import by_scores, by_size, deltas, measured_weights
from fitness.scheme import Scheme
from fitness.types import Estimate, Objective
from search_spaces.build import Layout, build_space, preset_names, read_preset
from search_spaces.genes import Choice, canonical
from search_spaces.space import Models


@pytest.mark.parametrize(("preset", "layout", "n"), CASES, ids=IDS)
def test_seeds_are_distinct_members_with_aim_off_then_on_then_off(
    preset: str, layout: Layout, n: int
) -> None:
    space = space_of(preset, layout, n)
    seeds = space.seeds()
    assert all(canonical(space.genes, s) == s for s in seeds)
    assert len({str(s) for s in seeds}) == len(seeds)
    strengths = [{v for k, v in s.items() if k.startswith("omega")} for s in seeds]
    on = strengths.count({0.4})
    off = strengths.index({0.4})
    assert strengths == [{1.0}] * off + [{0.4}] * on + [{1.0}] * (len(seeds) - off - on)
    assert 0 < on <= 1 + len(space.methods)
    assert off <= n + on
    assert len(seeds) <= off + on + 4  # at most four scales
    methods = [g.options for g in space.genes if isinstance(g, Choice) and g.name == "method"]
    if methods:
        assert {s["method"] for s in seeds} == set(methods[0])


@pytest.fixture(scope="module")
def engine(family: dict[str, str]) -> MergeEngine:
    plain = MergeEngine.from_pretrained(family["base"], {n: family[n] for n in "abc"}, "cpu")
    weights = dict(plain.live.named_parameters())
    ones = Importance({k: torch.ones(v.shape[-1]) for k, v in weights.items() if "proj" in k})
    return plain.with_importance(ones)


# Flattened or truncated spectra are no expert's, whatever the weights.
SPECTRAL = {"iso_c_aim", "tsv_m_aim"}


@pytest.mark.parametrize("preset", sorted(set(preset_names()) - SPECTRAL))
@pytest.mark.parametrize("n", [1, 3])
def test_the_first_seeds_are_the_experts(engine: MergeEngine, preset: str, n: int) -> None:
    experts = {e: engine.experts[e] for e in "abc"[:n]}
    models = Models(engine.base.name, {e: c.name for e, c in experts.items()})
    layout = Layout(2, ("attn", "mlp"))
    space = build_space(read_preset(preset), layout, facts, models, engine.anatomy)
    for (name, expert), seed in zip(experts.items(), space.seeds(), strict=False):
        with engine.materialize(space.decode(seed)) as live:
            for k, v in live.named_parameters():
                torch.testing.assert_close(v, expert.tensor(k), rtol=0, atol=1e-6, msg=name)


def test_the_mean_is_a_seed_and_published_settings_are() -> None:
    seeds = space_of("ties_aim", Layout(), 2).seeds()
    even = {"weight.a": 1.0, "weight.b": 1.0}  # only the ratios matter
    published = {"density.a": 0.2, "density.b": 0.2, "lambda": 1.0, "omega": 1.0}
    mean = {"density.a": 1.0, "density.b": 1.0, "lambda": 1.0, "omega": 1.0}
    assert seeds[2:4] == (even | mean, even | published)


@pytest.mark.parametrize("n", [2, 3])
def test_scales_of_the_sum_are_seeds_where_the_ranges_hold_them(n: int) -> None:
    plain = space_of("task_arithmetic_aim", Layout(), n).seeds()
    for scale in (0.3, 0.5, 0.7, 1.0):
        assert {f"weight.{e}": scale for e in "abc"[:n]} | {"omega": 1.0} in plain
    ties = space_of("ties_aim", Layout(), n).seeds()
    mean = ties[n]
    scales = [s * n for s in (0.3, 0.5, 0.7, 1.0) if s * n <= 2.0]
    assert all({**mean, "lambda": pytest.approx(s)} in [*ties] for s in scales)
    assert max(float(s["lambda"]) for s in ties) <= 2.0


def test_measured_weights_come_right_after_the_known_recipes() -> None:
    given = [{"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}]
    for preset, expected in (
        ("task_arithmetic_aim", (0.2, 0.3, 0.5)),
        ("ties_aim", (0.4, 0.6, 1.0)),
    ):
        space = space_of(preset, Layout(2), 3)
        without, seeds = space.seeds(), space.seeds(given)
        assert seeds[:7] == without[:7]
        assert set(map(str, without)) < set(map(str, seeds))
        assert len(seeds) == len(without) + 1, "equal weights are the mean, which is there"
        for (e, w), cell in product(zip("abc", expected, strict=True), ("g0", "g1", "rest")):
            assert seeds[7][f"weight.{e}.{cell}"] == pytest.approx(w)
    for preset in ("slerp_aim", "iso_c_aim"):  # experts have no weights of their own there
        space = space_of(preset, Layout(), 3)
        assert space.seeds(given) == space.seeds()


def test_metagpt_weighs_by_squared_norms_of_deltas(tiny: dict[str, Any]) -> None:
    evaluator = Evaluator.of(Experiment.from_dict(tiny))
    base, experts = evaluator.engine.base, evaluator.engine.experts
    squares = {
        e: sum(
            float((m.tensor(k).double() - base.tensor(k).double()).square().sum())
            for k in evaluator.engine.merger.blueprint.places
        )
        for e, m in experts.items()
    }
    assert deltas(evaluator) == pytest.approx(squares, rel=1e-5)
    weights = by_size({"a": 1.0, "b": 3.0})
    assert weights == {"a": 0.25, "b": 0.75}
    assert by_size({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5}


def test_better_scores_weigh_more_whatever_the_unit_and_the_goal() -> None:
    up, down = Objective("acc", "maximize", ()), Objective("ppl", "minimize", ())

    def of(**values: tuple[float, float]) -> dict[str, dict[str, Estimate]]:
        return {
            e: {"acc": Estimate(acc, 0.1), "ppl": Estimate(ppl, 0.1)}
            for e, (acc, ppl) in values.items()
        }

    weights = by_scores([up, down], of(a=(0.9, 10.0), b=(0.5, 30.0), c=(0.7, 20.0)))
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["a"] > weights["c"] > weights["b"]
    assert weights["a"] / weights["b"] == pytest.approx(math.exp(2))
    thousandfold = of(a=(0.9, 1e4), b=(0.5, 3e4), c=(0.7, 2e4))
    assert by_scores([up, down], thousandfold) == pytest.approx(weights)
    equal = by_scores([up], of(a=(0.5, 1.0), b=(0.5, 2.0)))
    assert equal == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(("preset", "n"), [("ties_aim", 2), ("slerp_aim", 0), ("iso_c_aim", 0)])
def test_weights_are_measured_where_experts_have_some(
    tiny: dict[str, Any], preset: str, n: int
) -> None:
    evaluator = Evaluator.of(Experiment.from_dict({**tiny, "search_space": {"preset": preset}}))
    names = [o.name for o in evaluator.objectives]
    known = {e: {o: Estimate(0.5, 0.1) for o in names} for e in evaluator.parents()}
    found = measured_weights(evaluator, Parents(cast(Scheme, None), {}, 0, known))
    assert len(found) == n
    assert all(set(w) == set("abc") and sum(w.values()) == pytest.approx(1) for w in found)
