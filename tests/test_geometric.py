"""What single spherical, geometric and weighting methods promise beyond the laws of all methods."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evoaim.errors import CandidateError
from evoaim.kernel import BASE, stream
from evoaim.kernel import tensors as kernel_tensors
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from evoaim.whole import Whole
from search_spaces.parameters import Setting
from tests.merging import basic, spherical
from tests.merging.row import alone, inputs, merge, statistics, tensors

SHAPES = [(7,), (33, 17), (2, 3, 4), (300, 401)]


def given(method: str, *experts: str, base: str | None = BASE, **settings: Setting) -> Inputs:
    """Inputs with the defaults of a method and some settings; lists are one value an expert."""
    declared = METHODS[method].PARAMETERS
    values = {n: p.default for n, p in declared.items()} | settings
    own = {
        e: {
            n: v[i] if isinstance(v, list) else v
            for n, v in values.items()
            if declared[n].per_model and v is not None
        }
        for i, e in enumerate(experts)
    }
    shared = {n: v for n, v in values.items() if not declared[n].per_model and v is not None}
    return Inputs(base, experts, own, shared, 0)


def alike(shape: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    """Models whose deltas have much in common."""
    x, drift = tensors(shape, seed), tensors(shape, seed + 99)["a"]
    return {n: t if n == BASE else t + 0.1 * drift for n, t in x.items()}


REFERENCES = {
    m: getattr(spherical, m) for m in ("nuslerp", "multislerp", "nearswap", "arcee_fusion")
}
REFERENCES["slerp"] = basic.slerp


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("method", "base"),
    [
        (m, base)
        for m in REFERENCES
        for base in (None, "c", BASE)
        if base is not None or METHODS[m].BASE == "optional"
    ],
)
def test_any_model_may_be_the_base_or_none(
    method: str, base: str | None, shape: tuple[int, ...]
) -> None:
    row, x = spherical.ROWS.get(method, basic.ROWS["slerp"]), alike(shape)
    for experts in (("a", "b")[: row.experts], (BASE, "a")[: row.experts]):
        if base in experts:
            continue
        for level, variant in ((0.3, {}), *((0.6, v) for v in row.variants)):
            some = inputs(method, replace(row, experts=len(experts)), level, variant)
            own = dict(zip(experts, some.own.values(), strict=True))
            p = replace(some, base=base, experts=experts, own=own)
            origin = None if base is None else x[base].double()
            expected = REFERENCES[method](origin, [x[e].double() for e in experts], p)
            torch.testing.assert_close(
                merge(method, x, p).double(), expected, rtol=row.rtol, atol=row.atol
            )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_of_experts_that_agree(shape: tuple[int, ...], filter_wise: bool) -> None:
    x, p = alike(shape), given("model_stock", "a", "b", "c", filter_wise=filter_wise)
    expected = spherical.model_stock(x[BASE].double(), [x[e].double() for e in "abc"], p)
    torch.testing.assert_close(merge("model_stock", x, p).double(), expected, rtol=2e-5, atol=2e-6)


def test_model_stock_is_the_expert_if_deltas_are_equal_and_the_base_if_at_right_angles() -> None:
    x0 = torch.zeros(2, 2)
    right = {BASE: x0, "a": torch.tensor([[1.0, 0], [0, 0]]), "b": torch.tensor([[0.0, 2], [0, 0]])}
    p = given("model_stock", "a", "b")
    assert torch.equal(merge("model_stock", right, p), x0)
    assert torch.equal(merge("model_stock", right | {"b": right["a"]}, p), right["a"])
    opposed = right | {"b": -3 * right["a"]}  # mergekit: beyond the base, here by -4 / 0
    assert torch.equal(merge("model_stock", opposed, p), x0)
    assert torch.equal(merge("model_stock", right, given("model_stock", "a")), right["a"])


def test_model_stock_does_not_care_how_long_deltas_are() -> None:
    # mergekit takes these for orthogonal: the product of their norms is below 1e-6
    x = alike((10, 10))
    far = [merge("model_stock", x, given("model_stock", *"abc")) - x[BASE]]
    zero = {n: 1e-5 * (t - x[BASE]) for n, t in x.items()}
    near = merge("model_stock", zero, given("model_stock", *"abc"))
    torch.testing.assert_close(near, 1e-5 * far[0], rtol=1e-4, atol=1e-9)


def test_multislerp_where_directions_cancel_or_there_are_none() -> None:
    a = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([[-0.5, -(0.75**0.5)], [0.75**0.5, -0.5]], dtype=torch.float64)
    plane = [torch.tensor([2.0, 0.0]).double()]
    plane += [turn @ plane[0], turn @ turn @ plane[0]]
    x = {BASE: torch.zeros(2)} | {n: v.float() for n, v in zip("abc", plane, strict=True)}
    w = [0.2, 0.2, 0.2]  # three directions that add to nothing: an error in mergekit
    assert merge("multislerp", x, given("multislerp", *"abc", weight=w)).abs().max() < 1e-6
    two = {BASE: torch.zeros(5, 3), "a": a, "b": -a}
    p = given("multislerp", "a", "b", weight=[1.0, 1.0])
    assert merge("multislerp", two, p).abs().max() < 1e-6
    same = {BASE: a, "a": a, "b": a, "c": a}  # frozen tensors: an error in mergekit
    assert torch.equal(merge("multislerp", same, given("multislerp", *"abc", weight=w)), a)
    with pytest.raises(CandidateError, match="multislerp: the weights of 't' sum to zero"):
        merge("multislerp", two, given("multislerp", "a", "b", weight=[1.0, -1.0]))


def test_multislerp_weighs_a_lone_model_too() -> None:
    x = tensors((5, 3), 1)
    p = given("multislerp", "a", weight=[0.3], normalize_weights=False)  # mergekit: x["a"]
    torch.testing.assert_close(merge("multislerp", x, p), x[BASE] + 0.3 * (x["a"] - x[BASE]))


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_two_models_on_a_sphere_have_one_way_between_them(t: float) -> None:
    # on unit vectors slerp, nuslerp and the weighted Karcher mean are the same point
    x = {n: v / v.norm() for n, v in tensors((6, 5), 3, delta=2.0).items()}
    slerp = merge("slerp", x, given("slerp", "b", base="a", t=t))
    nuslerp = merge("nuslerp", x, given("nuslerp", "a", "b", base=None, weight=[1 - t, t]))
    karcher = merge("karcher", x, given("karcher", "a", "b", weight=[1 - t, t], max_iter=200))
    torch.testing.assert_close(nuslerp, slerp)
    torch.testing.assert_close(karcher, slerp, rtol=1e-4, atol=1e-5)


def test_karcher_has_the_mean_norm_and_balances_the_arcs() -> None:
    x = tensors((6, 5), 4, delta=3.0)
    y = merge("karcher", x, given("karcher", *"abc", max_iter=100, tol=1e-8)).double()
    norms = [x[n].double().norm() for n in "abc"]
    torch.testing.assert_close(y.norm(), sum(norms) / 3)
    u, pull = y / y.norm(), torch.zeros(6, 5).double()
    for n, norm in zip("abc", norms, strict=True):
        v = x[n].double() / norm
        angle = torch.acos((u * v).sum())
        pull += angle / angle.sin() * (v - angle.cos() * u)
    assert pull.norm() < 1e-5


def test_karcher_of_points_without_direction_or_weight() -> None:
    x = tensors((4, 3), 5)
    zero = x | {"b": torch.zeros(4, 3)}  # counts in the scale only, as in mergekit
    p = given("karcher", "a", "b")
    torch.testing.assert_close(merge("karcher", zero, p), 0.5 * x["a"])
    opposite = x | {"b": -x["a"]}
    assert torch.isfinite(merge("karcher", opposite, p)).all()
    with pytest.raises(CandidateError, match="karcher: the weights of 't' sum to zero"):
        merge("karcher", x, given("karcher", "a", "b", weight=0.0))


def test_nuslerp_of_opposite_deltas_is_linear_and_of_a_zero_one_is_at_a_right_angle() -> None:
    x = tensors((5, 4), 6)
    d = x["a"] - x[BASE]
    for opposite in (-d, -d * (1 + 1e-6 * torch.rand(5, 4))):
        y = merge(
            "nuslerp", x | {"b": x[BASE] + opposite}, given("nuslerp", "a", "b", weight=[0.7, 0.3])
        )
        torch.testing.assert_close(y, x[BASE] + 0.4 * d, rtol=0, atol=1e-5)
    frozen = merge("nuslerp", x | {"b": x[BASE]}, given("nuslerp", "a", "b", weight=[0.7, 0.3]))
    torch.testing.assert_close(frozen, x[BASE] + math.sin(0.35 * math.pi) * d)
    # weights that cancel: halfway, as in mergekit
    y = merge("nuslerp", x, given("nuslerp", "a", "b", weight=[1.0, -1.0]))
    assert torch.equal(y, merge("nuslerp", x, given("nuslerp", "a", "b", weight=[1.0, 1.0])))


def test_nearswap_takes_near_elements_and_moves_far_ones_by_t() -> None:
    x = {BASE: torch.tensor([0.0, 1, 1, -1]), "a": torch.tensor([0.05, 1, 3, -4])}
    y = merge("nearswap", x, given("nearswap", "a", t=0.5))
    assert y.tolist() == pytest.approx([0.05, 1.0, 1.5, -1.5])
    tiny = {BASE: torch.zeros(2), "a": torch.tensor([5e-7, -5e-8])}
    y = merge("nearswap", tiny, given("nearswap", "a", t=1e-7))
    assert y.tolist() == pytest.approx([1e-7, -5e-8])  # mergekit: 5e-8, -5e-9


def test_arcee_fusion_takes_fewer_the_higher_the_threshold() -> None:
    x = tensors((64, 32), 7, delta=0.5)
    taken = []
    for k in (0.0, 1.0, 1.5, 3.0, 5.0):
        y = merge("arcee_fusion", x, given("arcee_fusion", "a", threshold=k))
        changed = y != x[BASE]
        torch.testing.assert_close(y[changed], x["a"][changed])
        taken.append(int(changed.sum()))
    assert taken[0] == 1025  # the lower median and what is above it
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > taken[2] > taken[-1]


def test_layer_swap_gives_every_layer_to_its_zone() -> None:
    x = {BASE: torch.zeros(1), "a": torch.ones(1), "b": torch.zeros(1)}

    def swap(**settings: Setting) -> Inputs:
        return given(
            "layer_swap", "a", "b", **{"weight": [1.0, 0.0], "ends": [0.0, 1.0]} | settings
        )

    def shares(p: Inputs) -> list[float]:
        layers = [replace(p, layer=i, n_layers=8) for i in range(8)]
        return [float(merge("layer_swap", x, layer)) for layer in layers]

    p = swap(bottom=2.0, top=1.0, top_transition=2.0, blend=0.25)
    assert shares(p) == [0, 0, 0.25, 1, 1, 0.25, 0.25, 0]
    assert shares(swap(bottom=7.0, top=3.0)) == [0] * 8
    nowhere = {"bottom": 0.0, "top": 0.0}
    assert shares(swap(**nowhere)) == [1] * 8
    assert shares(swap(**nowhere, weight=[3.0, 1.0])) == [0.75] * 8
    outside = {"ends": 0.0, "middle": 1.0, "mean": 0.5}
    assert {o: float(merge("layer_swap", x, swap(outside=o))) for o in outside} == outside
    assert shares(swap(bottom=8.0, ends=[0.0, 0.0])) == [0.5] * 8


def test_metagpt_weighs_by_norms_of_the_whole_model() -> None:
    first, second = tensors((5, 3), 8), tensors((70, 3), 9, delta=0.3)
    second["a"] = second[BASE] + 3 * (second["a"] - second[BASE])
    found: dict[str, TensorStatistics] = {}
    whole = Whole(lambda: found)
    for name, x in (("first", first), ("second", second)):
        found[name] = TensorStatistics(name, x.__getitem__, whole=whole)
    p = given("metagpt", "a", "b")
    moved = {
        e: sum(float((x[e] - x[BASE]).double().square().sum()) for x in (first, second))
        for e in "ab"
    }
    w = {e: moved[e] / sum(moved.values()) for e in "ab"}
    y = torch.empty(5, 3)
    mix = METHODS["metagpt"].mix(found["first"], p)
    assert stream(y, {m: (t, False) for m, t in first.items()}, mix).finite()
    expected = first[BASE] + sum(w[e] * (first[e] - first[BASE]) for e in "ab")
    torch.testing.assert_close(y, expected)


def test_weights_from_losses_and_metrics() -> None:
    x = {BASE: torch.zeros(2), "a": torch.tensor([1.0, 0]), "b": torch.tensor([0.0, 1])}
    warm = merge("lm_cocktail", x, given("lm_cocktail", "a", "b", loss=[1.0, 2.0]))
    assert warm.tolist() == pytest.approx([1 / (1 + math.exp(-0.2)), 1 / (1 + math.exp(0.2))])
    cold = given("lm_cocktail", "a", "b", loss=[1.0, 2000.0], temperature=0.1)
    assert merge("lm_cocktail", x, cold).tolist() == [1, 0]
    y = merge("mwa", x, given("mwa", "a", "b", metric=[0.8, 0.4], power=2.0))
    assert y.tolist() == pytest.approx([0.8, 0.2])
    even = merge("mwa", x, given("mwa", "a", "b", metric=[0.8, 0.4], power=0.0))
    assert even.tolist() == [0.5, 0.5]
    best = merge("mwa", x, given("mwa", "a", "b", metric=[1e20, 1e-20], power=900.0))
    assert best.tolist() == [1, 0]


def test_ram_averages_where_several_moved_and_adds_where_one_did() -> None:
    x = {
        BASE: torch.zeros(4),
        "a": torch.tensor([1.0, 2.0, 0.0, 1e-6]),
        "b": torch.tensor([3.0, 0.0, 4.0, 1e-6]),
    }
    assert merge("ram", x, given("ram", "a", "b")).tolist() == [2, 2, 4, 0]
    # shared 1, unique 1 of each expert: rho 1, so 1 + 0.5 * 0.8
    plus = merge("ramplus_tl", x, given("ramplus_tl", "a", "b", r=0.5, alpha=0.8))
    assert plus.tolist() == pytest.approx([2, 2.8, 5.6, 0])


OWN_RULES = {
    "nearswap": given("nearswap", "a", base="b", t=0.05),
    "arcee_fusion": given("arcee_fusion", "a", base="b"),
    "ram": given("ram", *"abc", epsilon=0.05),
    "ramplus_tl": given("ramplus_tl", *"abc", epsilon=0.05),
    "nuslerp": given("nuslerp", "a", "b", base=None, weight=[0.7, 0.4], nuslerp_flatten=False),
}


@pytest.mark.parametrize("method", OWN_RULES)
def test_own_rules_mean_the_same_as_tensor_code(method: str) -> None:
    x = tensors((33, 17), 11)
    mix = METHODS[method].mix(statistics(x), OWN_RULES[method])
    y = torch.empty(33, 17)
    assert kernel_tensors.write(y, {m: (t, False) for m, t in x.items()}, mix, None) == 0
    torch.testing.assert_close(y, merge(method, x, OWN_RULES[method]), rtol=1e-6, atol=1e-6)


def test_passthrough_scales_one_model() -> None:
    x = tensors((5, 3), 10)
    for e in ("a", BASE):
        y = merge("passthrough", x, given("passthrough", e, base=None, scale=[0.5]))
        torch.testing.assert_close(y, 0.5 * x[e])
        zero = merge("passthrough", x, given("passthrough", e, base=None, scale=[0.0]))
        assert (zero == 0).all()


@pytest.mark.parametrize("method", ["passthrough", "linear", "task_arithmetic"])
def test_a_lone_whole_model_is_copied_exactly(method: str) -> None:
    x = tensors((33, 17), seed=8)
    x["a"] = x["a"] * 1e-6  # where x0 + (x1 - x0) loses most of x1
    assert torch.equal(merge(method, x, alone(method)), x["a"])
