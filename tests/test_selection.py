"""The k largest without a sort; and the kernel's two implementations, bit for bit alike."""

import subprocess
import sys
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import Tensor

from evoaim.kernel import (
    BASE,
    Band,
    Bits,
    Coin,
    Keep,
    Largest,
    Mix,
    RankCoin,
    Relax,
    Term,
    elected,
    elected_mean,
    machine,
    native,
    stream,
    tensors,
    total,
)
from evoaim.registry import METHODS
from evoaim.selection import SMALL, grid_counts, grid_place, largest
from tests.merging import competing, sparse
from tests.merging.row import LEVELS, NAMES, Row, inputs, merge, statistics
from tests.merging.row import tensors as models

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROWS: dict[str, Row] = sparse.ROWS | competing.ROWS


def numbers(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    normal = np.abs(rng.standard_normal(n)).astype(np.float32)
    return {
        "random": normal,
        "few values": rng.integers(0, 7, n).astype(np.float32),
        "bfloat16": torch.from_numpy(normal).bfloat16().float().numpy(),
        "zeros": np.zeros(n, np.float32),
        "mostly zeros": np.where(rng.random(n) < 0.9, 0, normal).astype(np.float32),
        "huge and tiny": (normal * 10.0 ** rng.integers(-44, 38, n)).astype(np.float32),
    }[kind]


@pytest.mark.parametrize("n", [1, 1000, SMALL, SMALL + 1, 200_003])
@pytest.mark.parametrize(
    "kind", ["random", "few values", "bfloat16", "zeros", "mostly zeros", "huge and tiny"]
)
def test_the_largest_are_those_of_a_stable_sort(kind: str, n: int) -> None:
    values = numbers(kind, n)
    counts = [1, n, *grid_counts(n)[:: 1 + n // 2000], n, 1]  # not in order, and some twice
    order = np.argsort(-values, kind="stable")
    sums = values[order].cumsum(dtype=np.float64)
    found = largest(lambda start, stop: values[start:stop], n, counts)
    assert len(found) == len(counts)
    for k, one in zip(counts, found, strict=True):
        last = order[k - 1]
        assert one.keep.threshold == values[last]
        mine = one.keep.last if (values == values[last]).sum() > 1 else last
        equal = values == values[last]  # up to `last`: as many as the sort takes
        assert equal[: mine + 1].sum() == equal[order[:k]].sum()
        assert one.total == pytest.approx(sums[k - 1], rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 999, 1000, 1001, 123_457, 7_000_000_000])
def test_the_grid_finds_its_counts(n: int) -> None:
    grid = grid_counts(n)
    assert min(grid) >= 1
    assert max(grid) <= n
    for j in (1, 10, 290, 310, 500, 999):
        for count in {max(1, int(j / 1000 * n) + beside) for beside in (-1, 0, 1)}:
            place = grid_place(min(count, n), n)
            assert place is not None
            assert grid[place] == min(count, n)
    if n > 10_000:
        assert grid_place(n // 3 + n // 3000, n) is None


def masks(shape: tuple[int, ...], g: torch.Generator) -> list[Keep | None]:
    n, key = torch.Size(shape).numel(), 77 << 30
    ranks = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return [
        None,
        Largest(0.05, n // 2),
        Band(Largest(0.02, 0), Largest(0.1, n // 3)),
        Coin(key, 2**31),
        RankCoin(key, ranks, 0.1, 0.9),
        RankCoin(key, ranks, 0.1, 0.9, unbiased=True),
        Bits(torch.rand(shape, generator=g) > 0.5),
    ]


def fields(shape: tuple[int, ...], g: torch.Generator) -> list[Tensor | None]:
    """Factors of every shape that broadcasts."""
    found: list[tuple[int, ...]] = [(1,), shape]
    if shape:
        found.append(shape[-1:])
    if len(shape) > 1:
        found += [(*shape[:-1], 1), (shape[0], *[1] * (len(shape) - 1))]
    if len(shape) > 2:
        found += [(1, shape[1], 1), (shape[0], 1, shape[2])]
    return [None, *(torch.rand(s, generator=g) for s in found)]


def both(shape: tuple[int, ...], x: dict[str, tuple[Tensor, bool]], mix: Mix, aim: Relax | None,
         dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the CPU's machine code and the torch operations write."""
    a, b = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
    assert stream(a, x, mix, aim).finite()
    assert torch.isfinite(tensors.write(b, x, mix, aim))
    return a, b


@pytest.mark.parametrize("shape", [(), (1,), (7,), (33, 40), (2, 3, 5), (300, 1000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_implementations_write_the_same_bits(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=g).to(dtype)
    x = {BASE: (base, False)}
    for name in NAMES:
        d = 0.1 * torch.randn(shape, generator=g)
        is_delta = name == "c"
        x[name] = (d if is_delta else (base.float() + d).to(dtype), is_delta)
    out, rules = cycle(DTYPES), cycle((total, elected, elected_mean))
    for keep in masks(shape, g):
        for field in fields(shape, g):
            terms = (Term(m, 0.5 + 0.1 * i, 1.1, keep, field) for i, m in enumerate(NAMES))
            mix = Mix(tuple(terms), 0.9, 0.7, next(rules))
            aim = None if field is None else Relax(field, 0.7)
            a, b = both(shape, x, mix, aim, next(out))
            assert torch.equal(a, b), (keep, field)


@pytest.mark.parametrize("method", ROWS)
def test_both_implementations_agree_on_every_method(method: str) -> None:
    for shape in ((17, 33), (40,)):
        x = models(shape, seed=1)
        sources = {m: (t, False) for m, t in x.items()}
        for level in LEVELS:
            for variant in ROWS[method].variants:
                p = inputs(method, ROWS[method], level, variant)
                mix = METHODS[method].mix(statistics(x), p)
                a, b = both(shape, sources, mix, None, torch.float32)
                assert torch.equal(a, b), variant


@pytest.mark.parametrize("method", ["ties", "della", "sce", "pcb"])
def test_many_experts_do_not_change_the_result_of_the_first(method: str) -> None:
    """Rules hold for any number of experts: nine that equal the base leave the others' merge."""
    x = models((17, 33), seed=2)
    names = [*NAMES, *"defghijkl"]
    x |= {n: x[BASE].clone() for n in names[3:]}
    p = inputs(method, ROWS[method], 0.5, {"floor": 0.0} if method == "sce" else None)
    more = type(p)(p.base, tuple(names), {n: p.own[n if n in p.own else "a"] for n in names},
                   p.shared, p.seed)  # fmt: skip
    if method in ("ties", "della"):
        torch.testing.assert_close(merge(method, x, more), merge(method, x, p))
    sources = {m: (t, False) for m, t in x.items()}
    a, b = both((17, 33), sources, METHODS[method].mix(statistics(x), more), None, torch.float32)
    assert torch.equal(a, b)


def test_reading_and_writing_two_byte_numbers_rounds_as_torch_does() -> None:
    for dtype, code in ((torch.float16, machine.F16), (torch.bfloat16, machine.BF16)):
        every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
        read = np.empty(65536, np.float32)
        machine.load(every.data_ptr(), code, 0, read)
        expected = every.float()
        assert torch.equal(torch.from_numpy(read).isnan(), expected.isnan())
        same = torch.from_numpy(read.view(np.int32)) == expected.view(torch.int32)
        assert same[~expected.isnan()].all()
        g = torch.Generator().manual_seed(0)
        scales = torch.tensor([1e-8, 1e-6, 1e-4, 1, 1e3, 6e4])
        edges = [65504.0, 65519.0, 65520.0, 65535.0, 1e9, float("inf"), 2.0**-24, 2.0**-25]
        edges += [2.0**-25 * 1.0001, 0.0, -0.0, 3.4e38]
        some = torch.randn(6, 1 << 17, generator=g) * scales[:, None]
        middles = expected[:-1] / 2 + expected[1:] / 2  # halfway: to even
        x = torch.cat([some.flatten(), torch.tensor(edges), middles[middles.isfinite()]])
        written = torch.empty(len(x), dtype=dtype)
        machine.store(written.data_ptr(), code, 0, x.numpy())
        assert torch.equal(written.view(torch.int16), x.to(dtype).view(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_that_are_not_finite_are_noticed(dtype: torch.dtype) -> None:
    fine = torch.ones(5, 3, dtype=dtype)
    mix = Mix((Term("a", 0.5),))
    for where in (BASE, "a"):
        for wrong in ("nan", "inf", "-inf"):
            x = {BASE: (fine, False), "a": (fine.clone(), False)}
            x[where] = (
                fine.clone().index_put((torch.tensor(2),), torch.tensor(float(wrong), dtype=dtype)),
                False,
            )
            y = torch.empty(5, 3, dtype=dtype)
            assert not stream(y, x, mix).finite()
            assert not torch.isfinite(tensors.write(y, x, mix, None))
    large = torch.full((5, 3), 6e4)
    x = {BASE: (large, False), "a": (large * 2, False)}
    assert not stream(torch.empty(5, 3, dtype=torch.float16), x, mix).finite(), "overflow"


@pytest.mark.parametrize("axis", [-1, 0])
def test_importance_holds_back_the_update_only(axis: int) -> None:
    x = models((6, 4), seed=8)
    f = torch.linspace(0, 1, 4) if axis == -1 else torch.linspace(0, 1, 6)[:, None]
    y = torch.empty(6, 4)
    sources = {m: (t, False) for m, t in x.items()}
    assert stream(y, sources, Mix((Term("a", 0.7),)), Relax(f, 0.6)).finite()
    torch.testing.assert_close(y, x[BASE] + (1 - 0.6 * f) * 0.7 * (x["a"] - x[BASE]))


def test_chunks_and_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, g = (300, 1000), torch.Generator().manual_seed(1)
    x = {m: (t, False) for m, t in models(shape, seed=3).items()}
    threads = torch.get_num_threads()
    try:
        for keep in masks(shape, g):
            mix = Mix(tuple(Term(m, 0.4, 1.1, keep) for m in NAMES), 0.9, 0.7, elected_mean)
            aim, seen = Relax(torch.rand(1000, generator=g), 0.5), []
            for chunk, n in ((native.CHUNK, 1), (1009, 1), (4096, 3)):
                monkeypatch.setattr(native, "CHUNK", chunk)
                monkeypatch.setattr(native, "PARALLEL", 5000)
                torch.set_num_threads(n)
                y = torch.empty(shape, dtype=torch.bfloat16)
                assert stream(y, x, mix, aim).finite()
                seen.append(y)
            assert all(torch.equal(y, seen[0]) for y in seen)
    finally:
        torch.set_num_threads(threads)


def test_inference_mode_leaves_nothing_behind() -> None:
    x = models((33, 17), seed=9)
    p = inputs("ties", ROWS["ties"], 0.5)
    with torch.inference_mode():
        inside = merge("ties", x, p)
    assert torch.equal(merge("ties", x, p), inside)


def test_a_rule_has_the_same_stamp_in_every_process() -> None:
    """Otherwise what was compiled and kept on disk would never be found again."""
    names = "elected", "elected_mean", "total"
    code = "from evoaim.kernel import *; print(*(u.stamp for u in ({})))".format(", ".join(names))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(u.stamp) for u in (elected, elected_mean, total)]
