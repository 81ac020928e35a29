"""The front's table never cuts a figure off, and shows every estimate there is."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from evoaim.front_table import front_table
from evoaim.report import text
from evoaim.results import Entry, Estimates, Results
from fitness.types import Estimate, Objective

NAMES = ("math", "italian", "a very long name of an objective", "code")


def estimates(names: Sequence[str], value: float, error: float) -> Estimates:
    return {n: Estimate(value + i / 100, error, 0.999) for i, n in enumerate(names)}


def results(n: int, promoted: Estimates | None, watched: tuple[str, ...] = ()) -> Results:
    names = [*NAMES[:n], *watched]
    search, report = estimates(names, 0.6, 0.091), estimates(names, 0.4, 0.021)
    objectives = tuple(Objective(name, "maximize", ()) for name in NAMES[:n])
    front = (Entry("trial 17", 17, {}, {}, search, report, promoted),)
    parents = (Entry("base", None, {}, {}, estimates(names, 0.2, 0.0), None),)
    return Results({"name": "a"}, objectives, (), front, parents)


def drawn(width: int, found: Results) -> str:
    console = Console(file=(out := io.StringIO()), width=width)
    console.print(front_table(console, found, found.front, "a [b] title"))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 300])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_estimate_is_shown_in_full_at_any_width(n: int, width: int) -> None:
    promoted = estimates(NAMES[:n], 0.5, 0.0)
    found = results(n, promoted)
    table = drawn(width, found)
    assert "…" not in table
    assert "a [b] title" in table
    assert max(map(len, table.splitlines())) <= width
    (entry,), (parent,) = found.front, found.parents
    for known in (entry.search, entry.report or {}):
        assert all(text.estimate(e) in table for e in known.values())
    assert "without ±: of all search documents" in table
    for e in (*promoted.values(), *parent.search.values()):  # nothing is left to err
        assert f" {text.number(e.value)} " in table
        assert text.estimate(e) not in table
    assert "0.999" not in table


def test_levels_stand_side_by_side_where_there_is_room() -> None:
    found = results(2, estimates(NAMES[:2], 0.5, 0.0))
    (line,) = [line for line in drawn(100, found).splitlines() if "trial 17" in line]
    assert all(figure in line for figure in ("0.600", "0.500", "0.400", "0.610", "0.510", "0.410"))


@pytest.mark.parametrize("width", [60, 300])
def test_promotion_is_shown_only_where_there_was_one(width: int) -> None:
    assert "promoted" not in drawn(width, results(2, None))
    assert "promoted" in drawn(width, results(2, estimates(NAMES[:2], 0.5, 0.0)))


def test_what_was_only_watched_is_marked() -> None:
    table = drawn(300, results(1, None, watched=("length",)))
    assert "math (up)" in table
    assert "length (watched)" in table
