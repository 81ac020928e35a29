"""Laws of the methods over whole matrices that the suite over all methods does not know."""

import pytest
import torch
from torch import Tensor

from evoaim.kernel import BASE, Mix, stream, tensors, update
from evoaim.methods import Inputs, prepares
from evoaim.methods._spectral import polar, thin
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from tests.merging import row, spectral
from tests.merging.row import NAMES, inputs, statistics

MATRICES = tuple(spectral.ROWS)


def merged(t: TensorStatistics, method: str, p: Inputs) -> Tensor:
    """The merged delta, float32."""
    y = torch.empty(t.shape)
    sources = {m: (t.load(m), False) for m in (BASE, *p.experts)}
    assert stream(y, sources, METHODS[method].mix(t, p)).finite()
    return y - t.load(BASE)


def settings(method: str, **fixed: object) -> Inputs:
    declared = METHODS[method].PARAMETERS
    values = {n: p.default for n, p in declared.items()} | fixed
    own = {m: {n: v for n, v in values.items() if declared[n].per_model} for m in NAMES}
    shared = {n: v for n, v in values.items() if not declared[n].per_model}
    return Inputs(BASE, NAMES, own, shared, 0)  # type: ignore[arg-type]


def low_rank(rank: int) -> dict[str, Tensor]:
    """A base of zeros, so that deltas are not rounded, and experts of a rank."""
    g = torch.Generator().manual_seed(7)
    x = {BASE: torch.zeros(30, 20)}
    for name in NAMES:
        x[name] = torch.randn(30, rank, generator=g) @ torch.randn(rank, 20, generator=g)
    return x


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (3, 4, 6)])
def test_thin_decomposition_is_one(shape: tuple[int, ...]) -> None:
    d = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = thin(d)
    eye = torch.eye(min(shape[-2:]), dtype=d.dtype).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close((t.u * t.s[..., None, :]) @ t.v.mT, d)
    torch.testing.assert_close(t.u.mT @ t.u, eye)
    torch.testing.assert_close(t.v.mT @ t.v, eye)
    torch.testing.assert_close(t.s, torch.linalg.svdvals(d))
    flat = polar(d if shape[-2] >= shape[-1] else d.mT)
    torch.testing.assert_close(torch.linalg.svdvals(flat), torch.ones_like(t.s))


def test_iso_c_makes_all_singular_values_their_mean() -> None:
    x = row.tensors((33, 17), seed=2)
    d = merged(statistics(x), "iso_c", settings("iso_c", **{"lambda": 1.5}))
    before = torch.linalg.svdvals(sum(x[n] - x[BASE] for n in NAMES))
    after = torch.linalg.svdvals(d)
    torch.testing.assert_close(after, 1.5 * before.mean().expand(17), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_flattening_stays_within_the_rank_of_low_rank_experts(method: str) -> None:
    after = torch.linalg.svdvals(merged(statistics(low_rank(2)), method, settings(method)))
    assert int((after > 1e-4 * after[0]).sum()) == 6
    torch.testing.assert_close(after[:6], after[0].expand(6), rtol=1e-4, atol=1e-5)


def test_tsv_m_keeps_orthogonal_experts_and_ignores_what_equals_the_base() -> None:
    x = {BASE: torch.zeros(6, 6)} | {n: torch.zeros(6, 6) for n in NAMES}
    x["a"][0, 1], x["b"][2, 3] = 2.0, -3.0
    d = merged(statistics(x), "tsv_m", settings("tsv_m"))
    torch.testing.assert_close(d, x["a"] + x["b"])


def test_tsv_m_counts_a_shared_direction_once() -> None:
    x = low_rank(1)
    x["b"] = x["c"] = x["a"]
    d = merged(statistics(x), "tsv_m", settings("tsv_m"))
    torch.testing.assert_close(d, x["a"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_star_preserves_the_nuclear_norm_and_cuts_the_rank(eta: float) -> None:
    x = row.tensors((17, 33), seed=3)
    p = settings("star", eta=eta)
    lone = Inputs(BASE, ("a",), p.own, p.shared, 0)
    before = torch.linalg.svdvals(x["a"] - x[BASE])
    after = torch.linalg.svdvals(merged(statistics(x), "star", lone))
    torch.testing.assert_close(after.sum(), before.sum(), rtol=1e-4, atol=0)
    rank = int((after > 1e-4 * after[0]).sum())
    assert before[:rank].sum() >= eta * before.sum() > before[: rank - 1].sum()


def test_wudi_ends_at_its_optimum_and_a_large_ridge_at_the_sum() -> None:
    x = row.tensors((33, 17), seed=4)
    deltas = [(x[n] - x[BASE]).double() for n in NAMES]
    best = merged(statistics(x), "wudi", settings("wudi", ridge=1e-9)).double()
    total = merged(statistics(x), "wudi", settings("wudi", ridge=1e9)).double()

    def slope(d: Tensor) -> Tensor:
        return sum((d - di) @ di.T @ di / di.square().sum() for di in deltas)  # type: ignore[return-value]

    assert slope(best).norm() < 1e-5 * slope(sum(deltas)).norm()  # type: ignore[arg-type]
    torch.testing.assert_close(total, sum(deltas), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["embedding", "tied", "head", "convolution", "bias"])
@pytest.mark.parametrize("method", MATRICES)
def test_what_is_no_matrix_gets_the_mean_delta(method: str, kind: str) -> None:
    x = row.tensors((12, 8), seed=5)
    d = merged(statistics(x, kind=kind), method, settings(method))
    torch.testing.assert_close(d, sum(x[n] - x[BASE] for n in NAMES) / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", MATRICES)
def test_inputs_first_is_the_transposed_merge(method: str) -> None:
    x = row.tensors((14, 9), seed=6)
    turned = {m: t.T.contiguous() for m, t in x.items()}
    p = inputs(method, spectral.ROWS[method], 0.5)
    d = merged(TensorStatistics("t", turned.__getitem__, axis=-2), method, p)
    torch.testing.assert_close(d.T, merged(statistics(x), method, p), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", MATRICES)
def test_a_low_precision_checkpoint_loses_less_than_its_own_rounding(method: str) -> None:
    x = {m: t.bfloat16() for m, t in row.tensors((40, 30), seed=8, delta=0.05).items()}
    p = inputs(method, spectral.ROWS[method], 0.5)
    d = merged(statistics(x), method, p)
    exact = merged(statistics({m: t.float() for m, t in x.items()}), method, p)
    assert (d - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("method", MATRICES)
def test_candidates_that_keep_the_ratio_of_weights_decompose_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    t, calls = statistics(row.tensors((14, 9), seed=9)), []
    for name in ("eigh", "cholesky"):
        original = getattr(torch.linalg, name)

        def counted(*args: Tensor, original=original) -> object:  # type: ignore[no-untyped-def]
            calls.append(len(args))
            return original(*args)

        monkeypatch.setattr(torch.linalg, name, counted)
    first = merged(t, method, settings(method))
    made = len(calls)
    assert made > 0
    second = merged(t, method, settings(method, weight=0.5, **{"lambda": 0.8}))
    assert len(calls) == made
    share = 1.0 if method == "star" else 0.5  # it divides by the sum of the weights
    torch.testing.assert_close(second, 0.8 * share * first, rtol=1e-4, atol=1e-6)
    if method in ("tsv_m", "star", "wudi"):
        p = settings(method)
        p.own["b"]["weight"] = 0.3  # type: ignore[index]
        assert not torch.allclose(merged(t, method, p), first)
        assert len(calls) == made


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
@pytest.mark.parametrize("method", MATRICES)
def test_what_is_kept_is_what_is_declared(method: str, shape: tuple[int, int]) -> None:
    x = {m: t.bfloat16() for m, t in row.tensors(shape, seed=10).items()}
    t = statistics(x)
    for level in (0.25, 0.75):
        merged(t, method, inputs(method, spectral.ROWS[method], level))
    held = sum(_nbytes(v) for v in t._known.values())
    arrays = 2 * shape[0] * shape[1]
    vectors = 16 * sum(shape)
    assert arrays <= held <= prepares(method, len(NAMES)) * arrays + vectors


def _nbytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_nbytes, value)) if isinstance(value, tuple) else 0


def test_an_update_of_further_tensors_alone_runs_everywhere() -> None:
    @update
    def product(s, w, a, p, j):  # type: ignore[no-untyped-def]
        return a[0, j] * a[1, j] * p[0]

    x = row.tensors((33, 17), seed=11)
    column = x["b"][0]
    mix = Mix((), scale=2.0, update=product, aux=(x["a"], column), scalars=(0.5,))
    expected = x[BASE] + x["a"] * column
    sources = {BASE: (x[BASE], False)}
    y = torch.empty(33, 17)
    assert stream(y, sources, mix).finite()
    torch.testing.assert_close(y, expected)
    tensors.write(y.zero_(), sources, mix, None)
    torch.testing.assert_close(y, expected)
    assert stream(y, sources, Mix(())).finite()
    assert torch.equal(y, x[BASE])
