"""Laws of the masks and of the methods that are built on them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evoaim.errors import CandidateError
from evoaim.kernel import BASE, Coin, Keep, Largest, coin, keep_mask, mask_key
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from evoaim.whole import Whole
from search_spaces.parameters import Setting
from tests.merging.row import NAMES, defaults, merge, statistics, tensors

CPU = torch.device("cpu")


def of_delta(d: Tensor) -> TensorStatistics:
    return statistics({BASE: torch.zeros_like(d), "a": d})


def kept(keep: Keep | None, d: Tensor) -> Tensor:
    return torch.ones_like(d, dtype=torch.bool) if keep is None else keep_mask(keep, d)


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_exactly_k_are_kept_even_among_equal_magnitudes(
    n: int, density: float, gamma: float, seed: int
) -> None:
    d = torch.randint(-3, 4, (n,), generator=torch.Generator().manual_seed(seed)).float()
    found = of_delta(d)
    order = torch.sort(d.abs(), descending=True, stable=True).indices
    for rho, top in ((density, gamma), (round(density, 3), round(gamma, 3))):  # off and on the grid
        k = n if rho >= 1 else max(1, int(rho * n)) if rho > 0 else 0
        expected = torch.zeros(n, dtype=torch.bool)
        expected[order[:k]] = True
        assert torch.equal(kept(found.largest("a", rho), d), expected)
        k = n if rho >= 1 else int(rho * n)
        first = min(int(top * n), n - k)
        expected = torch.zeros(n, dtype=torch.bool)
        expected[order[first : first + k]] = True
        assert torch.equal(kept(found.band("a", rho, top), d), expected)


@pytest.mark.parametrize("shape", [(30, 120), (300, 1200)], ids=str)
def test_prepared_l1_ratios_equal_the_direct_ones(shape: tuple[int, ...]) -> None:
    x = tensors(shape, seed=6)
    found, d = statistics(x), x["a"] - x[BASE]
    for density in (0.001, 0.25, 0.3141, 0.999):
        masks = [found.coin("a", density, 0), found.largest("a", density)]
        masks += [found.band("a", density, 0.05), found.ranked("a", 0.9 * density, density, 0)]
        for keep in masks:
            direct = float(d.abs().sum() / d[kept(keep, d)].abs().sum().clamp(min=1e-7))
            rel = 1e-5
            if d.numel() > 2**16 and keep is masks[-1]:  # the expected sum: five standard errors
                rel = 6 / (density * d.numel()) ** 0.5
            if kept(keep, d).any():
                assert found.rescale("a", keep) == pytest.approx(direct, rel=rel)


def test_masks_are_nested_and_do_not_depend_on_where_one_starts() -> None:
    key = mask_key(0, "a", "t")
    u = coin(key, 0, 100_000, CPU)
    assert u.min() >= 0
    assert u.max() < 2**32
    assert torch.equal(coin(key, 777, 1000, CPU), u[777:1777])
    high = 2**32
    across = coin(key, high - 5, 10, CPU)
    assert torch.equal(across[5:], coin(key, high, 5, CPU))
    assert torch.equal(across[:5], coin(key, high - 5, 5, CPU))
    small, large = (keep_mask(Coin(key, int(p * 2**32)), u.float()) for p in (0.3, 0.6))
    assert not (small & ~large).any()


def test_coins_are_uniform_and_independent_between_keys() -> None:
    # 1e6 fair coins: the share of heads lies within 5 standard deviations (0.0025) of a half but
    # once in 1.7 million draws; likewise the correlation of two keys within 0.005.
    n = 1_000_000
    keys = [mask_key(s, m, t) for s, m, t in [(0, "a", "t"), (1, "a", "t"), (0, "b", "t")]]
    u = torch.stack([coin(k, 0, n, CPU).double() / 2**32 for k in keys])
    assert ((u < 0.5).double().mean(1) - 0.5).abs().max() < 0.0025
    assert (torch.corrcoef(u) - torch.eye(3, dtype=torch.float64)).abs().max() < 0.005
    neighbours = torch.corrcoef(torch.stack([u[0, :-1], u[0, 1:]]))[0, 1]
    assert neighbours.abs() < 0.005


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("dare_ties", {"density": 0.5}),
        ("dare_linear", {"density": 0.3, "rescale_by": "probability"}),
        ("della_linear", {"density": 0.5, "epsilon": 0.3, "rescale_by": "probability"}),
    ],
)
def test_rescaled_drops_are_unbiased(method: str, own: Mapping[str, Setting]) -> None:
    # The mean over n masks of an element kept with probability p has the relative standard error
    # sqrt((1 - p) / p / n): at most 0.1 here (p = 0.2, n = 400), 0.001 for the sum of all 2000
    # elements; bounds of 6 and of 5 standard errors.
    x, n = tensors((40, 50), seed=7), 400
    d, total = x["a"] - x[BASE], torch.zeros(40, 50)
    for seed in range(n):
        p = defaults(method, ("a",), own)
        total += merge(method, x, replace(p, seed=seed)) - x[BASE]
    ratio = float((total / n * d).sum() / (d * d).sum())
    assert ratio == pytest.approx(1.0, abs=5 * 0.1 / 2000**0.5)
    if "rescale_by" in own:
        assert (total / n - d).abs().div(d.abs()).max() < 6 * 0.1


def test_della_keeps_large_elements_more_often() -> None:
    d = torch.rand(2000, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    keep = of_delta(d).ranked("a", 0.2, 0.8, 0)
    by_rank = keep_mask(keep, d).gather(1, d.argsort(1)).double().mean(0)
    expected = torch.linspace(0.2, 0.8, 9, dtype=torch.float64)
    assert (by_rank - expected).abs().max() < 5 * 0.5 / 2000**0.5  # five standard errors


@pytest.mark.parametrize("shape", [(1,), (), (500, 1), (1, 500), (500,)], ids=str)
def test_della_takes_rows_of_any_length(shape: tuple[int, ...]) -> None:
    x = tensors(shape, seed=1)
    p = defaults("della_linear", ("a",), {"density": 0.5, "rescale_by": "probability"})
    moved = merge("della_linear", x, p) != x[BASE]
    if len(shape) and max(shape) == 500:
        assert 0.4 < moved.double().mean() < 0.6


@pytest.mark.parametrize(
    ("own", "refused"),
    [
        ({"density": 0.9}, True),  # with mergekit's default epsilon
        ({"density": 0.15}, True),
        ({"density": 0.5, "epsilon": 0.5}, True),
        ({"density": 0.5, "epsilon": 0.0, "spread": 1.0}, True),
        ({"density": 0.999, "epsilon": 0.0, "spread": 0.95}, False),
        ({"density": 1.0}, False),
        ({"density": 0.0}, False),
    ],
)
def test_della_refuses_probabilities_outside_of_0_1(own: dict[str, Setting], refused: bool) -> None:
    x = tensors((4, 9), seed=1)
    if refused:
        with pytest.raises(
            CandidateError, match=r"of 'a' must lie inside \(0, 1\).* lower epsilon"
        ):
            merge("della", x, defaults("della", ("a",), own))
    else:
        merge("della", x, defaults("della", ("a",), own))


@pytest.mark.parametrize("gamma", [0.0, 0.005])
def test_breadcrumbs_drops_nothing_at_the_top_of_a_small_tensor(gamma: float) -> None:
    x = tensors((9, 11), seed=2)
    y = merge("breadcrumbs", x, defaults("breadcrumbs", ("a",), {"density": 0.3, "gamma": gamma}))
    assert (y != x[BASE]).sum() == int(0.3 * 99)


def test_breadcrumbs_by_row_keeps_as_many_in_every_row() -> None:
    x = tensors((9, 40), seed=2)
    p = defaults("breadcrumbs", ("a",), {"density": 0.3, "gamma": 0.1, "scope": "row"})
    moved = merge("breadcrumbs", x, p) != x[BASE]
    assert (moved.sum(1) == 12).all()
    d = (x["a"] - x[BASE]).abs()
    assert not moved.gather(1, d.topk(4).indices).any()


def test_ties_over_the_whole_model_counts_over_all_tensors() -> None:
    small, large = tensors((30, 20), seed=3), tensors((7, 50), seed=4, delta=0.2)
    found: dict[str, TensorStatistics] = {}
    whole = Whole(lambda: found)
    for name, x in (("s", small), ("l", large)):
        found[name] = TensorStatistics(name, x.__getitem__, whole=whole)
    for density in (0.25, 0.31415, 1.0, 0.0):
        p = defaults("ties", ("a",), {"density": density, "scope": "model"})
        masks = [METHODS["ties"].mix(t, p).terms[0].keep for t in found.values()]
        d = [x["a"] - x[BASE] for x in (small, large)]
        both = [kept(m, di) for m, di in zip(masks, d, strict=True)]
        size, flat = (
            torch.cat([di.flatten() for di in d]).abs(),
            torch.cat([b.flatten() for b in both]),
        )
        assert flat.sum() == int(density * 950)
        if 0 < density < 1:
            assert size[flat].min() >= size[~flat].max()
            assert both[0].double().mean() < density < both[1].double().mean()


@pytest.mark.parametrize("vote", ["weighted", "unweighted"])
def test_an_expert_equal_to_the_base_does_not_enter_the_mean(vote: str) -> None:
    x = tensors((20, 30), seed=5)
    x["b"] = x[BASE].clone()
    p = defaults("ties", ("a", "b"), {"density": 1.0, "vote": vote})
    torch.testing.assert_close(merge("ties", x, p), x["a"], rtol=0, atol=5e-7)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "della", "breadcrumbs", "sce", "emr"])
def test_no_scale_and_no_weight_give_exactly_the_base(method: str) -> None:
    x = tensors((20, 30), seed=6)
    low = {"density": 0.5}
    assert torch.equal(merge(method, x, defaults(method, NAMES, {"lambda": 0.0, **low})), x[BASE])
    assert torch.equal(merge(method, x, defaults(method, NAMES, {"weight": 0.0, **low})), x[BASE])


def test_largest_of_density_zero_keeps_nothing() -> None:
    assert statistics(tensors((7,), 0)).largest("a", 0.0) == Largest(float("inf"), -1)
