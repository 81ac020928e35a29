"""Laws over all merge methods, each against a plain reference written from the formulas."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoaim.kernel import Coin, Largest, Mix, Term, coin, keep_mask, mask_key, stream
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics, fingerprint

SHAPES = [(1,), (7,), (64,), (5, 3), (33, 17), (2, 3, 4), (700, 401)]
NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class Row:
    """What the law suite knows of a method."""

    reference: Callable[[Tensor, list[Tensor], Inputs], Tensor]
    experts: int = 3
    random: bool = False
    needs_all_equal_base: bool = True


def linear(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    total = sum(w) if p.shared["normalize"] else 1.0
    return sum(wi * xi for wi, xi in zip(w, x, strict=True)) / total


def task_arithmetic(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    total = sum(wi * (xi - x0) for wi, xi in zip(w, x, strict=True))
    return x0 + p.shared["lambda"] * total / (sum(w) if p.shared["normalize"] else 1.0)


def vote(x0: Tensor, masked: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    v = [wi * s for wi, s in zip(w, masked, strict=True)]
    sign = torch.where(sum(v) >= 0, 1.0, -1.0)
    agree = [(vi.sign() == sign).to(x0.dtype) for vi in v]
    total = sum(vi * m for vi, m in zip(v, agree, strict=True))
    if p.shared["normalize"]:
        weight = sum(wi * m for wi, m in zip(w, agree, strict=True))
        total = total / torch.where(weight == 0, 1.0, weight)
    return x0 + p.shared["lambda"] * total


def ties(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    masked = []
    for name, xi in zip(p.experts, x, strict=True):
        d = (xi - x0).flatten()
        k = max(1, int(p.own[name]["density"] * d.numel()))
        kept = torch.sort(d.abs(), descending=True, stable=True).indices[:k]
        s = torch.zeros_like(d)
        s[kept] = d[kept]
        if p.shared["rescale"]:
            s *= d.abs().sum() / s.abs().sum()
        masked.append(s.view_as(x0))
    return vote(x0, masked, p)


def dare_ties(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    masked = []
    for name, xi in zip(p.experts, x, strict=True):
        d = (xi - x0).flatten()
        u = coin(mask_key(p.seed, fingerprint(xi.float()), "t"), 0, d.numel(), d.device) / 2**32
        s = torch.where(u < p.own[name]["density"], d, 0.0)
        if p.shared["rescale"] and s.abs().sum() >= 1e-7:
            s *= d.abs().sum() / s.abs().sum()
        masked.append(s.view_as(x0))
    return vote(x0, masked, p)


def slerp(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    t, a, b = p.shared["t"], x0, x[0]
    cosine = (a * b).sum() / (a.norm() * b.norm())
    if cosine.abs() > 0.9995:
        return (1 - t) * a + t * b
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


ROWS = {
    "linear": Row(linear, needs_all_equal_base=True),
    "task_arithmetic": Row(task_arithmetic),
    "ties": Row(ties),
    "dare_ties": Row(dare_ties, random=True),
    "slerp": Row(slerp, experts=1),
}


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(METHODS) == set(ROWS)


def tensors(shape: tuple[int, ...], seed: int, delta: float = 0.1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=g, dtype=torch.float64).float()
    noise = [torch.randn(shape, generator=g, dtype=torch.float64).float() for _ in NAMES]
    return {"base": base} | {n: base + delta * d for n, d in zip(NAMES, noise, strict=True)}


def inputs(method: str, level: float, seed: int = 3, **fixed: float | bool) -> Inputs:
    """Settings of a method: `level` in [0, 1] of every search range, else identity or default."""
    declared, names = METHODS[method].PARAMETERS, NAMES[: ROWS[method].experts]
    values = {}
    for name, p in declared.items():
        low, high = p.search or (0.0, 0.0)
        values[name] = low + level * (high - low) if p.search else p.default
    values |= fixed
    per_model = {n: v for n, v in values.items() if declared[n].per_model}
    own = {m: dict(per_model) for m in names}
    for i, m in enumerate(names):  # experts that differ, where the setting allows it
        if "weight" in own[m] and "weight" not in fixed:
            own[m]["weight"] = own[m]["weight"] * (1 + 0.25 * i) + 0.05
    shared = {n: v for n, v in values.items() if not declared[n].per_model}
    return Inputs("base", names, own, shared, seed)


def merge(method: str, x: dict[str, Tensor], p: Inputs, out: torch.dtype = torch.float32) -> Tensor:
    statistics = TensorStatistics("t", "base", x.__getitem__)
    mix = METHODS[method].mix(statistics, p)
    mix = Mix(
        tuple(t for t in mix.terms if t.model != "base"), mix.base, mix.scale, mix.vote, mix.mean
    )
    y = torch.empty(x["base"].shape, dtype=out)
    assert torch.isfinite(stream(y, x["base"], x, mix, None))
    return y


LEVELS = (0.0, 0.5, 1.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ROWS)
def test_kernel_equals_the_plain_reference(method: str, shape: tuple[int, ...]) -> None:
    x = tensors(shape, seed=len(shape))
    before = {k: v.clone() for k, v in x.items()}
    for level in LEVELS:
        for switch in ({}, {"normalize": True}, {"normalize": False}, {"rescale": True}):
            if not set(switch) <= set(METHODS[method].PARAMETERS):
                continue
            p = inputs(method, level, **switch)
            experts = [x[n].double() for n in p.experts]
            expected = ROWS[method].reference(x["base"].double(), experts, p)
            got = merge(method, x, p).double()
            torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-6)
    assert all(torch.equal(x[k], before[k]) for k in x), "inputs were written"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ROWS)
def test_a_lone_expert_at_identity_comes_out_unchanged(method: str, shape: tuple[int, ...]) -> None:
    x = tensors(shape, seed=5)
    declared = METHODS[method].PARAMETERS
    identity = {n: p.identity if p.identity is not None else p.default for n, p in declared.items()}
    own = {"a": {n: v for n, v in identity.items() if declared[n].per_model}}
    shared = {n: v for n, v in identity.items() if not declared[n].per_model}
    got = merge(method, x, Inputs("base", ("a",), own, shared, 0))
    torch.testing.assert_close(got, x["a"], rtol=0, atol=5e-7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", ROWS)
def test_experts_equal_to_the_base_give_the_base(method: str, level: float) -> None:
    x = tensors((33, 17), seed=1, delta=0.0)
    p = inputs(method, level) if method != "linear" else inputs(method, level, normalize=True)
    torch.testing.assert_close(merge(method, x, p), x["base"], rtol=0, atol=3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", ROWS)
def test_degenerate_tensors_stay_finite(method: str, dtype: torch.dtype) -> None:
    ulp = {"base": torch.ones(8, 4, dtype=dtype)}
    ulp |= {n: torch.ones(8, 4, dtype=dtype) for n in NAMES}
    ulp["a"][0, 0] += torch.finfo(dtype).eps
    zeros = {n: torch.zeros(8, 4, dtype=dtype) for n in ("base", *NAMES)}
    one = {n: torch.ones(1, dtype=dtype) for n in ("base", *NAMES)}
    for x in (ulp, zeros, one):
        for level in LEVELS:
            merge(method, x, inputs(method, level), out=dtype)  # asserts that it is finite


@pytest.mark.parametrize("method", [m for m, row in ROWS.items() if row.experts > 1])
def test_order_of_experts_does_not_matter(method: str) -> None:
    x = tensors((33, 17), seed=2)
    p = inputs(method, 0.5)
    turned = Inputs(p.base, p.experts[::-1], p.own, p.shared, p.seed)
    torch.testing.assert_close(merge(method, x, p), merge(method, x, turned), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ROWS)
def test_chunks_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tensors((700, 401), seed=4)
    p = inputs(method, 0.5)
    whole = merge(method, x, p)
    for module in ("kernel", "statistics"):
        monkeypatch.setattr(f"evoaim.{module}.CHUNK", 1009)
    assert torch.equal(merge(method, x, p), whole)


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_exactly_k_are_kept_even_among_equal_magnitudes(n: int, density: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    d = torch.randint(-3, 4, (n,), generator=g).float()
    x = {"base": torch.zeros(n), "a": d}
    statistics = TensorStatistics("t", "base", x.__getitem__)
    for rho in (density, round(density, 3)):  # off and on the prepared grid
        keep = statistics.largest("a", rho)
        expected = n if rho >= 1 else max(1, int(rho * n)) if rho > 0 else 0
        mask = keep_mask(keep, d, 0) if keep else torch.ones(n, dtype=torch.bool)
        assert mask.sum() == expected
        if 0 < expected < n:
            assert d[mask].abs().min() >= d[~mask].abs().max()


def test_prepared_l1_ratios_equal_the_direct_ones() -> None:
    x = tensors((300, 1200), seed=6)
    statistics = TensorStatistics("t", "base", x.__getitem__)
    d = (x["a"] - x["base"]).double().flatten()
    for density in (0.001, 0.25, 0.3141, 0.999):
        keep = statistics.coin("a", density, 0)
        assert isinstance(keep, Coin)
        direct = float(d.abs().sum() / d[keep_mask(keep, d, 0)].abs().sum())
        assert statistics.rescale("a", keep) == pytest.approx(direct, rel=1e-6)


def test_masks_are_nested_and_do_not_depend_on_where_one_starts() -> None:
    key = mask_key(0, "a", "t")
    u = coin(key, 0, 100_000, torch.device("cpu"))
    assert u.min() >= 0
    assert u.max() < 2**32
    assert torch.equal(coin(key, 777, 1000, torch.device("cpu")), u[777:1777])
    high = 2**32
    across = coin(key, high - 5, 10, torch.device("cpu"))
    assert torch.equal(across[5:], coin(key, high, 5, torch.device("cpu")))
    assert torch.equal(across[:5], coin(key, high - 5, 5, torch.device("cpu")))
    small, large = (keep_mask(Coin(key, int(p * 2**32)), u.float(), 0) for p in (0.3, 0.6))
    assert not (small & ~large).any()


def test_coins_are_uniform_and_independent_between_keys() -> None:
    # 1e6 fair coins: the share of heads lies within 5 standard deviations (0.0025) of a half but
    # once in 1.7 million draws; likewise the correlation of two keys within 0.005.
    n = 1_000_000
    keys = [mask_key(s, m, t) for s, m, t in [(0, "a", "t"), (1, "a", "t"), (0, "b", "t")]]
    u = torch.stack([coin(k, 0, n, torch.device("cpu")).double() / 2**32 for k in keys])
    assert ((u < 0.5).double().mean(1) - 0.5).abs().max() < 0.0025
    assert (torch.corrcoef(u) - torch.eye(3, dtype=torch.float64)).abs().max() < 0.005
    neighbours = torch.corrcoef(torch.stack([u[0, :-1], u[0, 1:]]))[0, 1]
    assert neighbours.abs() < 0.005


def test_dare_is_unbiased_over_seeds() -> None:
    # Mean over 400 masks of the L1-rescaled delta: its standard error is about |d| / 20 an element,
    # and the ratio over 2000 elements must be 1 within 15 standard errors (L1 matching couples).
    x = tensors((40, 50), seed=7)
    d = x["a"] - x["base"]
    total = torch.zeros_like(d)
    for seed in range(400):
        p = Inputs(
            "base",
            ("a",),
            {"a": {"weight": 1.0, "density": 0.5}},
            {"lambda": 1.0, "normalize": False, "rescale": True},
            seed,
        )
        total += merge("dare_ties", x, p) - x["base"]
    ratio = float((total / 400 * d).sum() / (d * d).sum())
    assert ratio == pytest.approx(1.0, abs=5 * (1 / 400 / 2000) ** 0.5 * 3)


def test_non_finite_results_are_noticed() -> None:
    x = tensors((5, 3), seed=0)
    x["a"][2, 1] = float("nan")
    y = torch.empty(5, 3)
    assert not torch.isfinite(stream(y, x["base"], x, Mix((Term("a", 1.0),)), None))
    large = torch.full((5, 3), 6e4)
    half = torch.empty(5, 3, dtype=torch.float16)
    grown = stream(half, large, {"a": large * 2}, Mix((Term("a", 1.0),)), None)
    assert not torch.isfinite(grown), "overflow of the output dtype"


@pytest.mark.parametrize("axis", [-1, 0])
def test_factor_applies_to_the_update_only(axis: int) -> None:
    x = tensors((6, 4), seed=8)
    f = torch.linspace(0, 1, 4) if axis == -1 else torch.linspace(0, 1, 6)[:, None]
    y = torch.empty(6, 4)
    stream(y, x["base"], x, Mix((Term("a", 0.7),)), f)
    torch.testing.assert_close(y, x["base"] + f * 0.7 * (x["a"] - x["base"]))


def test_largest_of_density_zero_keeps_nothing() -> None:
    statistics = TensorStatistics("t", "base", tensors((7,), 0).__getitem__)
    assert statistics.largest("a", 0.0) == Largest(float("inf"), -1)


def test_inference_mode_leaves_nothing_behind() -> None:
    x = tensors((33, 17), seed=9)
    p = inputs("ties", 0.5)
    with torch.inference_mode():
        inside = merge("ties", x, p)
    assert torch.equal(merge("ties", x, p), inside)
