"""Laws over all merge methods, each against a plain reference written from the formulas."""

import pytest
import torch

from evoaim.kernel import BASE, native
from evoaim.registry import METHODS
from search_spaces.parameters import Setting
from tests.merging import basic, competing, informed, sparse, spectral, spherical
from tests.merging.row import LEVELS, NAMES, alone, inputs, merge, tensors

SHAPES = [(1,), (7,), (64,), (5, 3), (33, 17), (2, 3, 4), (700, 401)]
ROWS = basic.ROWS | spherical.ROWS | sparse.ROWS | competing.ROWS | informed.ROWS | spectral.ROWS


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(METHODS) == set(ROWS)


def equal_base(method: str) -> dict[str, Setting]:
    return ROWS[method].equal_base or {}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ROWS)
def test_kernel_equals_the_plain_reference(method: str, shape: tuple[int, ...]) -> None:
    row, x = ROWS[method], tensors(shape, seed=len(shape))
    before = {k: v.clone() for k, v in x.items()}
    for level in LEVELS:
        for variant in row.variants:
            p = inputs(method, row, level, variant)
            experts = [x[n].double() for n in p.experts]
            expected = row.reference(x[BASE].double(), experts, p)
            got = merge(method, x, p).double()
            torch.testing.assert_close(got, expected, rtol=row.rtol, atol=row.atol)
    assert all(torch.equal(x[k], before[k]) for k in x), "inputs were written"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", [m for m, row in ROWS.items() if row.alone])
def test_a_lone_expert_at_identity_comes_out_unchanged(method: str, shape: tuple[int, ...]) -> None:
    x = tensors(shape, seed=5)
    torch.testing.assert_close(merge(method, x, alone(method)), x["a"], rtol=0, atol=5e-7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", ROWS)
def test_experts_equal_to_the_base_give_the_base(method: str, level: float) -> None:
    x = tensors((33, 17), seed=1, delta=0.0)
    p = inputs(method, ROWS[method], level, equal_base(method))
    torch.testing.assert_close(merge(method, x, p), x[BASE], rtol=0, atol=3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", ROWS)
def test_degenerate_tensors_stay_finite(method: str, dtype: torch.dtype) -> None:
    ulp = {BASE: torch.ones(8, 4, dtype=dtype)}
    ulp |= {n: torch.ones(8, 4, dtype=dtype) for n in NAMES}
    ulp["a"][0, 0] += torch.finfo(dtype).eps
    zeros = {n: torch.zeros(8, 4, dtype=dtype) for n in (BASE, *NAMES)}
    one = {n: torch.ones(1, dtype=dtype) for n in (BASE, *NAMES)}
    for x in (ulp, zeros, one):
        for level in LEVELS:
            merge(method, x, inputs(method, ROWS[method], level), dtype)  # asserts it is finite


@pytest.mark.parametrize("method", [m for m, r in ROWS.items() if r.experts > 1 and r.unordered])
def test_order_of_experts_does_not_matter(method: str) -> None:
    x = tensors((33, 17), seed=2)
    p = inputs(method, ROWS[method], 0.5)
    turned = type(p)(p.base, p.experts[::-1], p.own, p.shared, p.seed)
    torch.testing.assert_close(merge(method, x, p), merge(method, x, turned), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ROWS)
def test_chunks_and_threads_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tensors((700, 401), seed=4)
    p = inputs(method, ROWS[method], 0.5)
    whole = merge(method, x, p)
    monkeypatch.setattr(native, "CHUNK", 1009)
    monkeypatch.setattr(native, "PARALLEL", 5000)
    threads = torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            atol = ROWS[method].threads
            torch.testing.assert_close(merge(method, x, p), whole, rtol=0, atol=atol)
    finally:
        torch.set_num_threads(threads)
