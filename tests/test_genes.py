"""Genes: coding to and from the unit interval, snapping, and canonical genomes."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.errors import SpaceError
from search_spaces.genes import Choice, Gene, Real, Value, When, Whole, canonical

laws = settings(deadline=None, max_examples=60)
numbers = st.floats(-1e6, 1e6)
units = st.floats(0.0, 1.0)


@st.composite
def reals(draw: st.DrawFn) -> Real:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1e3) if log else numbers)
    high = low + draw(st.floats(1e-2, 1e3))
    step = None if log else draw(st.sampled_from([None, 1e-3, 0.01, 0.25]))
    return Real("x", low, high, log, step)


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    low = draw(st.integers(-50, 50))
    return Whole("n", low, low + draw(st.integers(1, 40)))


choices = st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True).map(
    lambda options: Choice("c", tuple(options))
)
genes = reals() | wholes() | choices


def legal(gene: Gene, value: Value) -> bool:
    return value in gene.options if isinstance(gene, Choice) else gene.low <= value <= gene.high


@laws
@given(genes, units)
def test_decoding_gives_legal_values_that_encode_back(gene: Gene, unit: float) -> None:
    value = gene.decode(unit)
    assert legal(gene, value)
    assert gene.snap(value) == value
    assert 0.0 <= gene.encode(value) <= 1.0
    assert gene.decode(gene.encode(value)) == value


@laws
@given(reals() | wholes(), st.floats(-1e9, 1e9))
def test_snapping_is_idempotent_and_picks_the_nearest(gene: Real | Whole, number: float) -> None:
    value = gene.snap(number)
    assert legal(gene, value)
    assert gene.snap(value) == value
    inside = min(max(number, gene.low), gene.high)
    step = 1.0 if isinstance(gene, Whole) else gene.step or abs(inside) * 1.01e-3
    assert abs(value - inside) <= step / 2 + 1e-9


@laws
@given(reals() | wholes(), units, units)
def test_decoding_keeps_the_order_and_reaches_both_ends(
    gene: Real | Whole, a: float, b: float
) -> None:
    assert (gene.decode(a) <= gene.decode(b)) or a > b
    assert (gene.decode(0.0), gene.decode(1.0)) == (gene.snap(gene.low), gene.snap(gene.high))


def test_log_genes_search_ratios() -> None:
    gene = Real("x", 0.01, 100.0, log=True)
    assert [gene.decode(u) for u in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.01, 0.1, 1.0, 10.0, 100.0]


def test_readable_values() -> None:
    assert Real("x", 0.0, 1.0, step=1e-3).decode(1 / 3) == 0.333
    assert Real("x", 0.0, 1.0).decode(1 / 3) == 0.3333
    assert Real("x", 0.3, 2.0, step=1e-3).decode(0.5) == 1.15


@pytest.mark.parametrize("gene", [Whole("n", 3, 9), Choice("c", tuple("abcdefg"))])
def test_every_whole_number_and_option_has_an_equal_share(gene: Whole | Choice) -> None:
    counts = Counter(gene.decode((i + 0.5) / 700) for i in range(700))
    assert set(counts.values()) == {100}
    assert len(counts) == 7
    for value in counts:
        assert {gene.decode(gene.encode(value) + off) for off in (-0.07, 0.07)} == {value}
    assert gene.decode(-0.1) == gene.decode(0.0)
    assert gene.decode(1.1) == gene.decode(1.0)


SPACE: tuple[Gene, ...] = (
    Choice("method", ("ties", "slerp")),
    Whole("k", 1, 3, When("method", ("ties",))),
    Real("t", 0.0, 1.0, step=1e-3, when=When("method", ("slerp",))),
    Real("u", 0.0, 1.0, step=1e-3, when=When("k", (2, 3))),
)


@laws
@given(st.sampled_from(["ties", "slerp"]), st.integers(-5, 5), numbers, numbers)
def test_canonical_genomes(method: str, k: int, t: float, u: float) -> None:
    values = {"u": u, "t": t, "k": k, "method": method, "other": 1.0}
    genome = canonical(SPACE, values)
    active = ["method", "t"] if method == "slerp" else ["method", "k"] + ["u"] * (k >= 2)
    assert list(genome) == active
    by_name = {g.name: g for g in SPACE}
    assert all(legal(by_name[n], v) for n, v in genome.items())
    assert canonical(SPACE, genome) == genome
    idle = "t" if method == "ties" else "k"
    assert canonical(SPACE, values | {idle: 0.123}) == genome


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Real("w", 1.0, 1.0),
            r"gene 'w': the range must have low < high, got \[1.0, 1.0\]",
        ),
        (lambda: Real("w", 2.0, 1.0), r"under 'fixed'"),
        (lambda: Real("w", 0.0, math.inf), r"low < high"),
        (lambda: Real("w", math.nan, 1.0), r"low < high"),
        (lambda: Real("w", 0.0, 1.0, log=True), r"a log range needs low > 0, got 0.0"),
        (lambda: Whole("n", 3, 3), r"gene 'n': the range"),
        (lambda: Choice("c", ()), r"gene 'c': options must be distinct"),
        (lambda: Choice("c", ("a", "a")), r"options must be distinct, got \('a', 'a'\)"),
        (lambda: Choice("c", ("a", "b")).snap("x"), r"gene 'c': 'x' is not one of \('a', 'b'\)"),
        (lambda: canonical(SPACE, {"method": "slerp"}), r"gene 't' has no value"),
        (lambda: canonical(SPACE, {}), r"gene 'method' has no value"),
        (lambda: canonical(SPACE, {"method": "linear"}), r"'linear' is not one of"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()
