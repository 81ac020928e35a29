"""When a search ends by itself: on a plateau, with the space exhausted; and how stages follow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoaim.ask_tell import PATIENCE, Search
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


def level(genome: Genome) -> Mapping[str, float]:
    return {"one": float(genome["x"]), "two": -float(genome["x"])}  # nobody is dominated


def test_a_stage_that_begins_with_a_large_front_goes_on() -> None:
    n = 2 * PATIENCE
    plan = [{"kind": "nsga2", "candidates": n}, {"kind": "random"}]  # the latter asks one by one
    search = run(Search.over(NUMBERS, GOALS, plan, candidates=n + 20), level)  # type: ignore[arg-type]
    assert len(search.trials) == n + 20


def test_seeds_count_for_no_stage() -> None:
    seeds = [{"x": i / 20, "y": 0.5} for i in range(20)]
    plan = stages([{"kind": "qmc", "candidates": 8}, {"kind": "nsga2", "population": 6}])
    proposer = build_schedule(plan, NUMBERS, 2, 0, seeds)
    first: list[Genome] = []
    while len(first) < 28:
        batch = proposer.ask()
        proposer.tell(np.array([[sloped(g)[n] for n in GOALS] for g in batch]))
        first += batch
    alone = build_schedule(stages({"kind": "qmc"}), NUMBERS, 2, 0, [])
    assert first[:20] == seeds
    assert first[20:28] == [g for _ in range(8) for g in alone.ask()][:8]


def test_the_largest_seed_is_one_for_every_stage() -> None:
    plan = [{"kind": "random", "candidates": 2}, {"kind": "tpe"}]
    search = Search.over(NUMBERS, GOALS, plan, candidates=6, seed=2**32 - 1)  # type: ignore[arg-type]
    assert len(run(search, sloped).trials) == 6


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"space": ()}, "genes: none given"),
        ({"space": (NUMBERS[0], NUMBERS[0])}, "genes: several named 'x'"),
        ({"space": (Choice("a", ("only",)),)}, "genes: none of a has a second option"),
        ({"goals": {}}, "goals: .* expected, got none"),
        ({"goals": {"a": "max"}}, "goals: .* expected, got a: 'max'"),
        ({"seed": -1}, "seed: .* expected, got -1"),
        ({"seed": 2**32}, "seed: .* expected, got 4294967296"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict[str, Any], match: str) -> None:
    given = {"space": NUMBERS, "goals": GOALS, "optimizer": {"kind": "nsga2"}, **change}
    with pytest.raises(ConfigError, match=match):
        Search.over(**given)


def test_documents_of_a_second_answer_are_not_taken() -> None:
    search = Search.over(NUMBERS, GOALS, {"kind": "m2n2", "population": 6}, candidates=12)  # type: ignore[arg-type]
    first, _ = search.ask(2)
    search.tell(first, sloped(first.genome), np.ones(4))
    with pytest.raises(ConfigError, match="has been told already"):
        search.tell(first, sloped(first.genome), np.zeros(4))
    assert search._rows is not None
    assert search._rows._told[first.number].tolist() == [1, 1, 1, 1]


def test_a_second_writer_does_no_harm(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/a", f"journal:///{tmp_path}/b"):

        def opened(url: str = url) -> Search:
            return Search.over(NUMBERS, GOALS, {"kind": "random"}, candidates=6, study=url)  # type: ignore[arg-type]

        def step(search: Search) -> None:
            for candidate in search.ask(1):
                search.tell(candidate, sloped(candidate.genome))

        ours, theirs = opened(), opened()
        step(ours)
        with pytest.raises(ConfigError, match="does another process write to it"):
            step(theirs)
        step(ours)
        assert len(run(opened(), sloped).trials) == 6
