"""Laws of the methods in which deltas compete for elements: SCE, CABS, PCB, Consensus."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evoaim.kernel import BASE, Bits
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from search_spaces.parameters import Setting
from tests.merging.row import NAMES, defaults, merge, statistics, tensors


def sce(x: dict[str, Tensor], **own: Setting) -> Tensor:
    return merge("sce", x, defaults("sce", NAMES, own))


def test_sce_masked_moves_only_the_selection_and_official_all() -> None:
    x = tensors((20, 30), seed=7)
    masked, official = (sce(x, select_topk=0.1, mode=m) for m in ("masked", "official"))
    assert (masked != x[BASE]).sum() == int(0.1 * 600)
    assert (official != x[BASE]).all()


def test_sce_of_identical_experts_is_the_expert() -> None:
    x = tensors((20, 30), seed=8)
    same = {BASE: x[BASE], **dict.fromkeys(NAMES, x["a"])}
    torch.testing.assert_close(sce(same), x["a"], rtol=0, atol=5e-7)
    assert torch.equal(sce(same, select_topk=0.5), x[BASE])  # nothing differs


def test_sce_weighs_experts_alike_below_the_floor() -> None:
    x = tensors((20, 30), seed=9, delta=1e-4)
    x["a"] = x[BASE] + 3 * (x["a"] - x[BASE])

    def weights(floor: float) -> list[float]:
        mix = METHODS["sce"].mix(statistics(x), defaults("sce", NAMES, {"floor": floor}))
        return [t.weight for t in mix.terms]

    assert weights(1e-6) == [1 / 3] * 3
    assert weights(0.0)[0] == pytest.approx(9 / 11, rel=0.1)


def test_sce_selects_exactly_k_among_equal_variances() -> None:
    g = torch.Generator().manual_seed(0)
    x = {BASE: torch.zeros(300, 41)}
    x |= {n: torch.randint(-2, 3, (300, 41), generator=g).bfloat16().float() for n in NAMES}
    d = torch.stack([x[n] for n in NAMES])
    variance = sum((d[i] - d[k]).square() for i, k in ((0, 1), (0, 2), (1, 2)))  # times 9: exact
    for topk in (0.3, 0.12345):
        mix = METHODS["sce"].mix(
            statistics(x), defaults("sce", NAMES, {"select_topk": topk, "floor": 0.0})
        )
        k = int(variance.count_nonzero() * topk)
        order = variance.flatten().sort(descending=True, stable=True).indices[:k]
        square = d.flatten(1)[:, order].square().sum(1)
        shares = torch.tensor([t.weight for t in mix.terms])
        torch.testing.assert_close(shares, square / square.sum())
        outside = torch.ones(300 * 41, dtype=torch.bool).index_fill(0, order, False)
        assert not sce(x, select_topk=topk).flatten()[outside].any()


def cabs_masks(x: dict[str, Tensor], p: Inputs) -> list[Tensor]:
    terms = METHODS["cabs"].mix(statistics(x), p).terms
    assert all(isinstance(t.keep, Bits) for t in terms)
    return [t.keep.mask.flatten() for t in terms]


def test_cabs_masks_are_disjoint_and_balanced() -> None:
    x = tensors((31, 33), seed=10)  # 1023 elements: a last block of 15
    masks = cabs_masks(x, defaults("cabs", NAMES, {"density": 5 / 16, "m": 16.0}))
    assert torch.stack(masks).sum(0).max() == 1
    for mask in masks:
        assert (mask[:1008].view(-1, 16).sum(1) == 5).all()
        assert mask[1008:].sum() == 5  # ceil(5 * 15 / 16)
    size = (x["a"] - x[BASE]).abs().flatten()[:1008].view(-1, 16)
    first = masks[0][:1008].view(-1, 16)
    assert (size.masked_fill(~first, 9).amin(1) >= size.masked_fill(first, 0).amax(1)).all()


def test_cabs_fills_up_with_taken_elements_only_where_no_others_are_left() -> None:
    x = tensors((8, 16), seed=11)
    a, b = (
        m.view(-1, 16)
        for m in cabs_masks(x, defaults("cabs", ("a", "b"), {"density": 0.75, "m": 16.0}))
    )
    assert (a.sum(1) == 12).all()
    assert (b.sum(1) == 12).all()
    assert (a | b).all()


def test_cabs_experts_choose_by_priority() -> None:
    x = tensors((8, 16), seed=12)
    p = defaults("cabs", ("a", "b"), {"density": 0.5, "m": 16.0})
    first = {"a": p.own["a"], "b": {**p.own["b"], "priority": 1.0}}
    a, b = cabs_masks(x, replace(p, own=first))
    assert torch.equal(b, cabs_masks(x, replace(p, experts=("b",)))[0])
    assert not (a & b).any()


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_pcb_of_an_expert_equal_to_the_base_is_finite(scope: str) -> None:
    x = tensors((20, 30), seed=13)
    x["b"] = x[BASE].clone()
    both = merge("pcb", x, defaults("pcb", ("a", "b"), {"scope": scope}))
    d = (x["a"] - x[BASE]).abs().flatten()
    assert ((both - x[BASE]).flatten() != 0).sum() == pytest.approx(0.1 * 600, abs=1)
    assert (both != x[BASE]).flatten()[d.topk(50).indices].all()


def test_consensus_keeps_what_k_experts_need() -> None:
    base = torch.zeros(1, 4)
    a, b = torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.1, -1.0, 0.0]])
    x = {BASE: base, "a": a, "b": b}

    def moved(k: float) -> list[float]:
        return merge("consensus", x, defaults("consensus", ("a", "b"), {"k": k})).flatten().tolist()

    assert moved(2.0) == [2.0, 0.0, 0.0, 0.0]  # |1| > 0.4 |1| for both; |0.1| for one only
    assert moved(1.0) == pytest.approx([2.0, 1.1, 0.0, 0.0])
    assert moved(9.0) == moved(2.0)
