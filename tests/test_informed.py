"""Laws of the methods that weigh columns, elements or inputs by what is known of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evoaim.errors import CandidateError
from evoaim.kernel import BASE, stream
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from tests.merging import informed, row
from tests.merging.row import NAMES, inputs, statistics


def settings(method: str, models: tuple[str, ...] = NAMES, **fixed: object) -> Inputs:
    declared = METHODS[method].PARAMETERS
    values = {n: p.default for n, p in declared.items()} | fixed
    own = {m: {n: v for n, v in values.items() if declared[n].per_model} for m in models}
    shared = {n: v for n, v in values.items() if not declared[n].per_model}
    return Inputs(BASE, models, own, shared, 0)  # type: ignore[arg-type]


def merged(t: TensorStatistics, method: str, p: Inputs) -> Tensor:
    y = torch.empty(t.shape)
    sources = {m: (t.load(m), False) for m in (BASE, *NAMES)}
    assert stream(y, sources, METHODS[method].mix(t, p)).finite()
    return y


def known(x: dict[str, Tensor], found: dict[str, Tensor], axis: int = -1) -> TensorStatistics:
    """A tensor with these statistics on text."""
    return TensorStatistics(
        "t", x.__getitem__, axis=axis, measured=lambda model, _: found.get(model)
    )


def average(x: dict[str, Tensor], weights: tuple[float, ...]) -> Tensor:
    return sum(w * x[n] for w, n in zip(weights, NAMES, strict=True)) / sum(weights)


def weighed(method: str, weights: tuple[float, ...], **fixed: object) -> Inputs:
    p = settings(method, **fixed)
    own = {n: {"weight": w} for n, w in zip(NAMES, weights, strict=True)}
    return replace(p, own=own)


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e-6, 3.0])
def test_constant_fisher_information_gives_the_weighted_mean(value: float) -> None:
    x = row.tensors((12, 8), seed=1)
    t = known(x, dict.fromkeys(NAMES, torch.full((12, 8), value)))
    got = merged(t, "fisher", weighed("fisher", (1.0, 2.0, 0.5)))
    torch.testing.assert_close(got, average(x, (1.0, 2.0, 0.5)), rtol=1e-5, atol=1e-6)


def test_an_element_comes_from_the_only_model_that_knows_of_it() -> None:
    x = row.tensors((3, 4), seed=2)
    found = {n: torch.zeros(3, 4) for n in NAMES}
    for i, n in enumerate(NAMES):
        found[n][i] = 1e-9
    got = merged(known(x, found), "fisher", settings("fisher", floor=1e-9))
    expected = torch.stack([x[n][i] for i, n in enumerate(NAMES)])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_the_base_may_be_one_of_the_models(method: str) -> None:
    x = row.tensors((12, 8), seed=3)
    p = settings(method, ("a", BASE, "b"))
    reference = informed.ROWS[method].reference
    expected = reference(x[BASE].double(), [x[m].double() for m in p.experts], p)
    torch.testing.assert_close(
        merged(statistics(x), method, p), expected.float(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_weights_that_sum_to_zero_fail_the_candidate(method: str) -> None:
    t = statistics(row.tensors((12, 8), seed=3))
    with pytest.raises(CandidateError, match=f"{method}: the weights of 't' sum to zero"):
        METHODS[method].mix(t, weighed(method, (0.0, 0.0, 0.0)))


@pytest.mark.parametrize("ridge", [1e-6, 1.0])
def test_equal_gram_matrices_give_the_weighted_mean(ridge: float) -> None:
    x = row.tensors((12, 8), seed=4)
    gram = row.measured((12, 8), "a", "gram")
    assert gram is not None
    t = known(x, dict.fromkeys(NAMES, gram))
    got = merged(t, "regmean", weighed("regmean", (1.0, 2.0, 0.5), ridge=ridge))
    torch.testing.assert_close(got, average(x, (1.0, 2.0, 0.5)), rtol=1e-4, atol=1e-5)


def test_without_off_diagonals_every_column_is_a_weighted_mean() -> None:
    x = row.tensors((12, 8), seed=5)
    grams = {n: row.measured((12, 8), n, "gram") for n in NAMES}
    whole = {n: g for n, g in grams.items() if g is not None}
    p = settings("regmean", off_diagonal=0.0, ridge=1e-9)
    c = torch.stack([whole[n].diagonal() for n in NAMES])
    expected = (c[:, None] * torch.stack([x[n] for n in NAMES])).sum(0) / c.sum(0)
    for found in (whole, {n: g.diagonal() for n, g in whole.items()}):
        got = merged(known(x, found), "regmean", p)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_regmean_is_nearest_to_every_models_outputs() -> None:
    x = row.tensors((12, 8), seed=6)
    g = torch.Generator().manual_seed(0)
    texts = {n: torch.randn(40, 8, generator=g) @ torch.randn(8, 8, generator=g) for n in NAMES}
    t = known(x, {n: v.T @ v / 40 for n, v in texts.items()})
    got = merged(t, "regmean", settings("regmean", off_diagonal=1.0, ridge=1e-9))

    def distance(w: Tensor) -> Tensor:
        return sum((v @ (w - x[n]).T).square().sum() for n, v in texts.items())  # type: ignore[return-value]

    for i in range(5):
        nudge = torch.randn(12, 8, generator=torch.Generator().manual_seed(i))
        assert distance(got) < distance(got + 0.01 * nudge)


def test_inputs_first_is_the_transposed_merge() -> None:
    x = row.tensors((12, 8), seed=7)
    turned = {m: v.T.contiguous() for m, v in x.items()}
    p = inputs("regmean", informed.ROWS["regmean"], 0.5)
    grams = {n: g for n in NAMES if (g := row.measured((12, 8), n, "gram")) is not None}
    got = merged(known(turned, grams, axis=-2), "regmean", p)
    torch.testing.assert_close(got.T, merged(known(x, grams), "regmean", p), rtol=1e-4, atol=1e-6)
    q = inputs("widen", informed.ROWS["widen"], 0.5)
    got = merged(known(turned, {}, axis=-2), "widen", q)
    torch.testing.assert_close(got.T, merged(known(x, {}), "widen", q))


def test_layers_without_a_gram_matrix_get_the_weighted_mean() -> None:
    x = row.tensors((12, 8), seed=8)
    p = weighed("regmean", (1.0, 2.0, 0.5))
    torch.testing.assert_close(merged(known(x, {}), "regmean", p), average(x, (1.0, 2.0, 0.5)))


def test_widen_counts_a_column_of_an_embedding_by_token() -> None:
    x = row.tensors((12, 8), seed=9)
    p = settings("widen")
    as_matrix = merged(statistics({m: v.T.contiguous() for m, v in x.items()}), "widen", p)
    torch.testing.assert_close(merged(statistics(x, kind="embedding"), "widen", p), as_matrix.T)


def test_widen_adds_up_what_is_important_to_all() -> None:
    x = {BASE: torch.ones(4, 10)} | {n: torch.ones(4, 10) for n in NAMES}
    for i, n in enumerate(NAMES):
        x[n][i, 8:] += 1 + i  # the two last columns move in every expert, the others in none
    got = merged(statistics(x), "widen", settings("widen"))
    expected = x[BASE] + sum(x[n] - x[BASE] for n in NAMES)
    torch.testing.assert_close(got, expected)


def test_led_leaves_what_two_experts_elect_and_what_the_base_does_not() -> None:
    x = row.tensors((20, 10), seed=10)
    g = torch.Generator().manual_seed(1)
    found = {m: torch.rand(20, 10, generator=g) for m in x}
    t = known(x, found)
    p = settings("led", density=0.3)
    d = merged(t, "led", p) - x[BASE]
    top = {m: (x[m] * found[m]).abs() for m in x}
    elected = {m: s >= s.flatten().sort(descending=True).values[59] for m, s in top.items()}
    electors = sum((elected[n] & elected[BASE]).int() for n in NAMES)
    assert torch.equal(d != 0, electors == 1)
    same = dict.fromkeys(x, found[BASE])
    copies = {BASE: x[BASE]} | dict.fromkeys(NAMES, x["a"])
    torch.testing.assert_close(merged(known(copies, same), "led", p), x[BASE])


def test_led_elects_nothing_without_a_gradient_unless_asked_for_everything() -> None:
    x = row.tensors((20, 10), seed=11)
    zeros = dict.fromkeys(x, torch.zeros(20, 10))
    lone = settings("led", ("a",), density=0.5)
    torch.testing.assert_close(merged(known(x, zeros), "led", lone), x[BASE])
    whole = settings("led", ("a",), density=1.0)
    torch.testing.assert_close(merged(known(x, zeros), "led", whole), x["a"])
