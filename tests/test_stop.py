"""When a search ends by itself: on a plateau, with the space exhausted; and how stages follow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoaim.ask_tell import Search
from evoaim.errors import ConfigError
from evoaim.ledger import Ledger, sqlite_url
from evoaim.limits import Limits, Plateau
from evoaim.optimizers import Proposer, nsga2
from evoaim.optimizers._schedule import build_schedule, stages
from evoaim.search import hire
from fitness.types import Objective
from search_spaces.genes import Choice, Gene, Genome, Real, When, Whole
from search_spaces.hygiene import count_genomes

GOALS = {"one": "minimize", "two": "minimize"}
NUMBERS = (Real("x", 0.0, 1.0), Real("y", 0.0, 1.0))
Function = Callable[[Genome], Mapping[str, float]]


def flat(_genome: Genome) -> Mapping[str, float]:
    return {"one": 1.0, "two": 1.0}


def sloped(genome: Genome) -> Mapping[str, float]:
    x, y = float(genome["x"]), float(genome["y"])
    return {"one": x + y, "two": 1 - x + y}


def run(search: Search, function: Function) -> Search:
    while not search.done:
        for candidate in search.ask():
            search.tell(candidate, function(candidate.genome))
    return search


def watched(file: Path, function: Function, plateau: Plateau | None) -> Search:
    """A search of 200 candidates at most, in batches of 10."""
    objectives = tuple(Objective(n, "minimize", ()) for n in GOALS)
    plan = stages({"kind": "nsga2", "population": 10})
    proposer = build_schedule(plan, NUMBERS, 2, 0, [])
    ledger = Ledger.open(sqlite_url(file), "search", objectives, NUMBERS, "")
    return run(Search(proposer, ledger, Limits(200, plateau=plateau)), function)


def test_a_plateau_ends_the_search_and_a_slope_does_not(tmp_path: Path) -> None:
    stopped = watched(tmp_path / "a", flat, Plateau(30, 0.01))
    assert stopped.ended.startswith("the front has stood still: 30 candidates added no more than 1")
    assert len(stopped.trials) == 50, "30 after the first batch from whose corner it is measured"
    assert len(watched(tmp_path / "b", flat, None).trials) == 200
    climbing = watched(tmp_path / "c", sloped, Plateau(20, 0.0))
    early = watched(tmp_path / "d", sloped, Plateau(20, 0.5))
    assert len(climbing.trials) > len(early.trials)


TINY: tuple[Gene, ...] = (
    Choice("method", ("sum", "vote")),
    Whole("k", 1, 3),
    Choice("by", ("l1", "p"), When("method", ("vote",))),
)


@pytest.mark.parametrize("kind", ["nsga2", "random", "qmc", "tpe"])
def test_a_tiny_space_ends_with_the_reason_when_all_of_it_was_asked(
    kind: str, tmp_path: Path
) -> None:
    def values(genome: Genome) -> Mapping[str, float]:
        return {"one": float(genome["k"]), "two": -float(genome["method"] == "vote")}

    search = run(
        Search.over(TINY, GOALS, {"kind": kind}, candidates=100, study=tmp_path / "a"), values
    )  # type: ignore[arg-type]
    assert "exhausted" in search.ended
    asked = {tuple(t.genome.items()) for t in search.trials}
    assert len(asked) == len(search.trials) == count_genomes(TINY, 100) == 3 + 3 * 2


def test_stages_ask_as_many_and_begin_with_the_front(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[list[Genome]] = []
    build = nsga2.build

    def noting(
        genes: Sequence[Gene], n: int, params: object, seed: int, first: Sequence[Genome]
    ) -> Proposer:
        begun.append(list(first))
        return build(genes, n, params, seed, first)  # type: ignore[arg-type]

    monkeypatch.setattr(nsga2, "build", noting)
    plan = [{"kind": "qmc", "candidates": 8}, {"kind": "nsga2", "population": 6}]
    search = run(Search.over(NUMBERS, GOALS, plan, candidates=26, study=tmp_path / "a"), sloped)  # type: ignore[arg-type]
    alone = run(
        Search.over(NUMBERS, GOALS, {"kind": "qmc"}, candidates=8, study=tmp_path / "b"), sloped
    )  # type: ignore[arg-type]
    assert [t.genome for t in search.trials[:8]] == [t.genome for t in alone.trials]
    (first,) = begun
    assert first == [t.genome for t in alone.front]
    assert len({str(t.genome) for t in search.trials}) == len(search.trials) == 26
    assert search.ended == "the budget of candidates is spent"


def test_a_search_whose_ranges_have_whole_ends_is_resumed_from_those_ends(tmp_path: Path) -> None:
    # more digits than a value without a grid has: only the upper end is nearest to anything
    genes = [Real("x", 12345, 12346), Real("y", 0, 1)]

    def largest(candidates: int) -> Search:
        optimizer = {"kind": "ga", "population": 6}
        search = Search.over(genes, {"x": "maximize"}, optimizer, candidates, study=tmp_path / "a")
        return run(search, lambda genome: {"x": float(genome["x"])})

    found = {t.genome["x"] for t in largest(30).trials}
    assert found == {12346.0}
    assert all(isinstance(x, float) for x in found)
    assert [t.number for t in largest(42).trials] == list(range(42))


@pytest.mark.parametrize("plan", ["nsga2", ["nsga2"], [{"kind": "qmc", "candidates": 4}, None]])
def test_what_is_no_block_is_refused_as_a_stage(plan: Any) -> None:
    with pytest.raises(ConfigError, match=r"optimizer.*: a block.* expected, got"):
        Search.over(TINY, GOALS, plan)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_search_without_workers_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError, match="1 or more expected"), hire(None, workers, None):  # type: ignore[arg-type]
        pass


def test_documents_are_refused_where_they_would_be_lost_and_must_be_as_many() -> None:
    search = Search.over(NUMBERS, GOALS, {"kind": "m2n2", "population": 6}, candidates=12)
    first, second = search.ask(2)
    search.tell(first, sloped(first.genome), np.ones(4))
    with pytest.raises(ConfigError, match=r"documents: an array \(4,\) expected.*got \(3,\)"):
        search.tell(second, sloped(second.genome), np.ones(3))


def test_documents_are_not_taken_for_a_study_that_is_kept(tmp_path: Path) -> None:
    optimizer = {"kind": "m2n2", "population": 6}
    search = Search.over(NUMBERS, GOALS, optimizer, candidates=12, study=tmp_path / "a")
    (candidate,) = search.ask(1)
    with pytest.raises(ConfigError, match="documents: are not recorded"):
        search.tell(candidate, sloped(candidate.genome), np.ones(4))
