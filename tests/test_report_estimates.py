"""Search, promoted and report estimates in the report, and what became of the other candidates."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import Plan, make_run

from evoaim.front import hypervolume
from evoaim.report import findings, optimism, provenance, table, text, write_report
from evoaim.report.figures import volume_figure
from evoaim.report.findings import Findings
from evoaim.report.front_figure import MAX_NUMBERS, numbered
from evoaim.report.note import trial_note
from evoaim.report.style import hover
from evoaim.report.verdict import verdict
from evoaim.results import Results, losses
from evoaim.run_dir import RunDir, write_json, write_scores
from fitness.types import DocumentScores, Estimate

PLAN = Plan(
    trials=24,
    raced=(3, 11),
    infeasible=(5, 9),
    watched=("length",),
    promoted=True,
    level=0.35,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("run"), PLAN)


@pytest.fixture(scope="module")
def found(run: RunDir) -> Findings:
    return findings.find(Results.read(run))


@pytest.fixture(scope="module")
def page(run: RunDir) -> Page:
    return Page(write_report(run))


def test_three_estimates_stand_in_each_row_of_the_front(page: Page, found: Findings) -> None:
    words = page.prose.replace("\N{NO-BREAK SPACE}", " ")
    for e, row in zip(
        sorted(found.front, key=lambda e: e.name),
        sorted(table.rows(found, found.front), key=lambda row: row.name),
        strict=True,
    ):
        assert row.labels == ("promoted", "search")
        assert e.report is not None
        assert e.promoted is not None
        cells = dict(zip(table.columns(found), row.cells, strict=True))
        for o in found.objectives:
            assert cells[o.name].value == text.number(e.report[o.name].value)
            exact = text.number(e.promoted[o.name].value)
            assert cells[o.name].below == (exact, text.estimate(e.search[o.name]))
            assert text.estimate(e.search[o.name]).replace("\N{NO-BREAK SPACE}", " ") in words
    assert {row.labels for row in table.rows(found, found.parents)} == {("search",)}


def test_what_is_only_watched_is_shown_and_never_best(page: Page, found: Findings) -> None:
    assert found.watched == ("length",)
    assert "length (watched)" in page.prose
    for row in table.rows(found, (*found.front, *found.parents)):
        cell = dict(zip(table.columns(found), row.cells, strict=True))["length (watched)"]
        assert not cell.best
    assert all("length" in hover(found, e) for e in (*found.front, *found.trials))


def test_the_level_of_the_comparison_is_shown_nowhere(page: Page, found: Findings) -> None:
    shown = page.words + "".join(page.data.values())
    for e in (*found.front, *found.parents):
        for estimate in e.search.values():
            own = Estimate(estimate.ranked, estimate.stderr)
            assert text.estimate(own) not in shown


def test_values_are_measured_from_a_corner_of_values(found: Findings) -> None:
    """A shift of what is compared changes no figure of what is shown."""
    level = findings.volumes(found)
    assert [v.level for v in level] == ["report", "promoted", "search"]
    corner = findings.reference(found, findings.values)
    assert corner is not None
    report = [e.report or {} for e in found.parents]
    assert level[0].parents == pytest.approx(hypervolume(losses(found.objectives, report), corner))
    flat = tuple(
        replace(e, search={n: replace(s, rank_value=None) for n, s in e.search.items()})
        for e in found.parents
    )
    moved = findings.volumes(replace(found, parents=flat))
    assert moved[:2] == level[:2]
    assert findings.progress(found)[0] == pytest.approx(level[2].parents)


def test_only_eligible_trials_raise_the_hypervolume(found: Findings) -> None:
    best = {o.name: Estimate(5.0, 0.0) for o in found.objectives}
    gone = {*found.raced, *found.violations}
    assert gone == {*PLAN.raced, *PLAN.infeasible}
    trials = tuple(replace(e, search=best) if e.trial in gone else e for e in found.trials)
    assert findings.progress(replace(found, trials=trials)) == findings.progress(found)


def exactly(found: Findings) -> Findings:
    """The findings with parents that were scored on all search documents."""
    parents = tuple(
        replace(e, search={n: replace(s, stderr=0.0) for n, s in e.search.items()})
        for e in found.parents
    )
    return replace(found, parents=parents)


def test_what_is_from_all_search_documents_has_no_error(found: Findings) -> None:
    known = exactly(found)
    assert known.exact
    for row in table.rows(known, known.parents):
        assert not any("±" in line for cell in row.cells for line in cell.below)
    assert all("0.000" not in hover(known, e) for e in known.parents)
    early = exactly(replace(found, rescored=False, front=found.others))
    assert all(not cell.stderr for row in table.rows(early, early.parents) for cell in row.cells)
    assert "± 0.000" not in verdict(early).replace("\N{NO-BREAK SPACE}", " ")
    assert "±" not in trial_note("", early.parents[0].search, found.objectives)


def test_front_members_have_their_numbers_beside_their_marks(page: Page, found: Findings) -> None:
    (names,) = [t for t in json.loads(page.data["data-front"])["data"] if t["name"] == "names"]
    pick = findings.chosen(found)
    assert pick is not None
    others = [str(e.trial) for e in found.front if e is not pick]
    shown = names["text"][-len(others) :]
    assert len(others) > 1
    assert all(text in (number, "") for text, number in zip(shown, others, strict=True))
    assert any(shown)
    for number, x in zip(others, names["x"][-len(others) :], strict=True):
        (member,) = [e for e in found.front if str(e.trial) == number]
        assert member.report is not None
        assert x == member.report[found.objectives[0].name].value
    assert "the trials’ numbers in the table" in page.prose
    many = replace(found, front=found.front * MAX_NUMBERS)
    assert not numbered(many)


@pytest.mark.parametrize(("seeds", "inside"), [(2, False), (12, True), (90, True)])
def test_the_name_of_the_seeds_stands_in_their_band_or_beside_it(
    found: Findings, seeds: int, inside: bool
) -> None:
    figure = volume_figure(found, seeds)
    assert figure is not None
    (band,) = [s for s in figure["layout"]["shapes"] if s["type"] == "rect"]
    (name,) = [a for a in figure["layout"]["annotations"] if "seed recipes" in a["text"]]
    assert name["x"] == (band["x0"] if inside else band["x1"])


def test_the_choice_is_by_all_search_documents(found: Findings) -> None:
    pick = findings.chosen(found)
    assert pick is not None
    means = {
        e.name: np.mean([e.known[o.name].value for o in found.objectives]) for e in found.front
    }
    assert means[pick.name] == max(means.values())


def test_candidates_that_fell_out_are_counted_and_drawn_apart(page: Page, found: Findings) -> None:
    assert "22 candidates evaluated, 2 of them raced out, 2 infeasible, 2 more failed" in page.prose
    n = len(found.front)
    assert f"{n} of {n} finalists on the front by more search documents" in page.prose
    figure = json.loads(page.data["data-front"])
    go.Figure(figure["data"], figure["layout"])
    drawn = {t["name"]: t for t in figure["data"]}
    raced, rest = drawn["raced out"], drawn["candidate"]
    assert raced["marker"]["opacity"] < rest["marker"]["opacity"]
    assert len(raced["x"]) == len(drawn["infeasible"]["x"]) == 2
    assert len(rest["x"]) == len(found.trials) - len(found.front) - 4
    assert all("raced out" in words for words in raced["hovertext"])
    assert all("misses the constraints" in words for words in drawn["infeasible"]["hovertext"])


def test_shifts_are_mean_changes_and_add_up(found: Findings) -> None:
    for s in optimism.shifts(found):
        name = s.objective.name
        whole = [(e.report or {})[name].value - e.search[name].value for e in found.front]
        assert s.promoted is not None
        assert s.report is not None
        assert s.promoted + s.report == pytest.approx(np.mean(whole))
    assert optimism.shifts(replace(found, rescored=False)) == []


def test_words_tell_the_direction_of_a_shift(found: Findings) -> None:
    def report(change: float) -> Findings:
        front = tuple(
            replace(
                e,
                promoted=None,
                report={n: replace(s, value=s.value + change) for n, s in e.search.items()},
            )
            for e in found.front
        )
        return replace(found, front=front)

    assert "math turned out 0.040 worse on the report documents" in optimism.words(report(-0.04))[0]
    assert "math turned out 0.040 better on" in optimism.words(report(0.04))[0]
    assert "math turned out the same on" in optimism.words(report(0.0))[0]


def test_luck_is_the_largest_of_equal_errors(found: Findings) -> None:
    n, error = 20_000, 0.1
    sample = np.random.default_rng(0).normal(0.0, error, (n, len(found.trials) - 4))
    o = found.objectives[0]
    trials = tuple(replace(e, search={o.name: Estimate(0.5, error)}) for e in found.trials)
    bound = optimism.luck(replace(found, trials=trials), o)
    assert bound == pytest.approx(sample.max(axis=1).mean(), rel=0.02)
    assert optimism.luck(replace(found, trials=trials[:1]), o) == 0.0


def test_documents_are_counted_once_for_all_metrics_of_a_task(tmp_path: Path) -> None:
    run = RunDir(tmp_path)

    def scores(n: int) -> DocumentScores:
        return DocumentScores(tuple(map(str, range(n))), np.zeros(n), np.ones(n))

    write_scores(run.responses("base", "search"), {"a/b/acc": scores(100), "c/acc": scores(50)})
    write_scores(
        run.responses("trial_0", "search"),
        {"a/b/acc": scores(9), "a/b/probability": scores(9), "c/acc": scores(1)},
    )
    tally = provenance.tally(run, 3)
    assert (tally.failed, tally.models, tally.run, tally.whole) == (3, 2, 160, 0)
    write_json(run.manifest, {"documents": {"search": {"a/b": 100, "c": 50}}})
    assert provenance.tally(run, 0).whole == 300


def test_cost_is_said_as_a_share(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(trials=4, failed=()))
    assert "The search ran 480 documents in all." in Page(write_report(run)).prose
    sizes = {"zoo_math": 720, "zoo_italian": 720}
    write_json(run.manifest, {"documents": {"search": sizes}})
    assert "480 documents, a 12th of the 5,760 that" in Page(write_report(run)).prose


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_shares_are_within_rounding(part: int, whole: int) -> None:
    words = text.share(part, whole)
    known = {"half": 2, "a third": 3, "a quarter": 4}
    digits = "".join(c for c in words if c.isdigit())
    if words[0].isdigit():
        assert float(words) == pytest.approx(part / whole, abs=0.006)
    else:
        assert known.get(words, int(digits or 0)) == round(whole / part)


def test_shares_are_said_as_anyone_says_them() -> None:
    said = [text.share(1, n) for n in (2, 3, 8, 11, 12, 21, 22, 23, 80, 113)]
    assert said == [
        *("half", "a third", "an 8th", "an 11th", "a 12th", "a 21st"),
        *("a 22nd", "a 23rd", "an 80th", "a 113th"),
    ]


def test_a_run_without_a_feasible_candidate_says_by_how_much(tmp_path: Path) -> None:
    plan = Plan(trials=4, failed=(0,), infeasible=(1, 2, 3), rescored=False)
    run = make_run(tmp_path / "run", plan)
    prose = Page(write_report(run)).prose
    assert (
        "No candidate keeps the constraints (math >= 0.9 * base): the nearest, trial 1, misses by "
        "0.01 of the bound." in prose
    )
    alone = make_run(tmp_path / "one", replace(plan, goals=("maximize",)))
    assert verdict(findings.find(Results.read(alone))).startswith("No candidate keeps")
    write_report(alone)


@pytest.mark.parametrize("level", [None, 0.35])
def test_a_measure_of_its_own_is_said_where_there_is_one(
    level: float | None, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", Plan(trials=6, level=level))
    assert findings.find(Results.read(run)).apart is (level is not None)
    assert ("in the search’s own measure" in Page(write_report(run)).prose) is (level is not None)
