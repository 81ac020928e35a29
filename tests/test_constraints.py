"""Constraints: what a line of `keep` means, and by how much a candidate misses it."""

import pytest

from evoaim.constraints import parse, total_violation
from evoaim.errors import ConfigError
from fitness.types import Estimate

MODELS = {"base": {"ppl": Estimate(10.0, 0.1), "acc": Estimate(0.5, 0.0, rank_value=0.4)}}


def violation(line: str, ppl: float = 10.0, acc: Estimate | None = None) -> float:
    mine = {"ppl": Estimate(ppl, 0.1), "acc": acc or Estimate(0.5, 0.0)}
    return total_violation([parse(line, ["ppl", "acc"], ["base", "math-7b"])], mine, MODELS)


@pytest.mark.parametrize(
    ("line", "ppl", "expected"),
    [
        ("ppl <= 1.05 * base", 10.5, 0.0),
        ("ppl <= 1.05 * base", 12.6, 0.2),
        ("ppl<=1.05*base", 12.6, 0.2),
        ("ppl <= base", 11.0, 0.1),
        ("ppl <= base * 1.05", 12.6, 0.2),
        ("ppl <= base + 1", 11.0, 0.0),
        ("ppl <= base - 2", 10.0, 0.25),
        ("ppl <= 8", 10.0, 0.25),
        ("ppl >= 8.0", 10.0, 0.0),
        ("ppl >= 2e1", 10.0, 0.5),
    ],
)
def test_what_a_line_means(line: str, ppl: float, expected: float) -> None:
    assert violation(line, ppl) == pytest.approx(expected)


def test_a_bound_relative_to_a_model_compares_on_the_same_documents() -> None:
    mine = Estimate(0.45, 0.05, rank_value=0.41)  # shown below the base, ranked above it
    assert violation("acc >= base", acc=mine) == 0.0
    assert violation("acc >= 0.5", acc=mine) == pytest.approx(0.1)


def test_violations_add_up() -> None:
    lines = [parse(text, ["ppl"], ["base"]) for text in ("ppl <= 5", "ppl >= 20")]
    assert total_violation(lines, {"ppl": Estimate(10.0, 0.0)}, MODELS) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ppl < 3", "'OBJECTIVE <= BOUND' or"),
        ("ppl", "got 'ppl'"),
        ("pl <= 3", r"unknown objective 'pl'; did you mean 'ppl'"),
        ("ppl <= 2 * bas", r"unknown model 'bas'; did you mean 'base'"),
        ("ppl <= base / 2", "'OBJECTIVE <= BOUND' or"),
        ("ppl <= ", "'OBJECTIVE <= BOUND' or"),
    ],
)
def test_refusals(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(line, ["ppl", "acc"], ["base"])
