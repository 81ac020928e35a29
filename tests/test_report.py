"""The report loads nothing, hides nothing, says what was found, and escapes strangers' text."""

import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import Plan, ledger_of, make_run

from evoaim.errors import ConfigError
from evoaim.front import hypervolume
from evoaim.ledger import Trial
from evoaim.report import findings, text, write_report
from evoaim.report.findings import Findings
from evoaim.report.labels import apart, place
from evoaim.report.page import script_data
from evoaim.report.provenance import experiment_yaml
from evoaim.results import Entry, Results, losses
from evoaim.run_dir import RunDir, read_json, write_json
from fitness.types import Estimate

HOSTILE = "</script><img src=x onerror=alert(1)>%{x}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("run"), Plan(trials=16, storage="sqlite"))


@pytest.fixture(scope="module")
def page(run: RunDir) -> Page:
    return Page(write_report(run))


@pytest.fixture(scope="module")
def found(run: RunDir) -> Findings:
    return findings.find(Results.read(run))


def test_page_loads_nothing_and_runs_only_its_own_scripts(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    allowed = policy.split("script-src ")[1].split(";")[0].split()
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()) for s in page.scripts]
    assert allowed == [f"'sha256-{d.decode()}'" for d in digests]
    assert len(page.scripts) == 2  # plotly, and what draws


def test_page_shows_every_front_member_parent_and_objective(run: RunDir, page: Page) -> None:
    front, parents = read_json(run.front), read_json(run.parents)
    for entry in [*front, *parents]:
        assert f"{entry['name']}" in page.prose
        for split in ("search", "report"):
            for name, e in entry[split].items():
                assert name in page.prose
                shown = text.estimate(Estimate(e["value"], e["stderr"]))
                assert " ".join(shown.split()) in page.prose
    assert "Reference point: math " in page.prose
    assert "a point from their report scores would give other volumes." in page.prose
    assert page.prose.count("merge_method:") == len(front)
    assert "non-finite weights in model.layers.0" in page.prose
    assert f"evoaim export {run.path} --trial" in page.prose


def test_verdict_names_the_choice_by_search_scores_with_its_report_value(
    page: Page, found: Findings
) -> None:
    def mean(entry: Entry, split: str) -> float:
        values = entry.search if split == "search" else entry.report or {}
        return float(np.mean([e.value for e in values.values()]))

    best = max(found.front, key=lambda e: mean(e, "search"))
    parent = max(found.parents, key=lambda e: mean(e, "report"))
    assert f"Trial {best.trial} beats every parent" in page.prose
    assert f"is {mean(best, 'report'):.3f} ±" in page.prose
    assert f"best parent ({parent.name}) {mean(parent, 'report'):.3f} ±" in page.prose


def test_figures_are_valid_plotly(page: Page) -> None:
    assert set(page.data) == {"data-front", "data-volume", "data-omega"}
    (heat,) = json.loads(page.data["data-omega"])["data"]
    assert heat["colorbar"]["title"]["side"] == "right"  # on top it would hide a figure
    for block in page.data.values():
        figure = json.loads(block)
        go.Figure(figure["data"], figure["layout"])  # raises on what plotly does not know


CASES = {
    "one objective": (Plan(("maximize",), trials=8), "beats every parent: on the report"),
    "one minimized": (Plan(("minimize",), trials=8), "(lower is better)"),
    "mixed goals": (Plan(("maximize", "minimize"), trials=8), "The front reaches beyond the"),
    "all minimized": (Plan(("minimize", "minimize"), trials=8), "mean of math and italian (lower"),
    "four objectives": (Plan(("maximize",) * 4, trials=8), "mean of the 4 objectives"),
    "seven objectives": (Plan(("maximize",) * 7, trials=6), "the first six are drawn"),
    "worse than parents": (Plan(trials=8, gain=-0.25), "No merge beats the parents."),
    "mixed, worse": (Plan(("maximize", "minimize"), trials=8, gain=-0.25), "No merge reaches"),
    "unfinished": (Plan(trials=8, rescored=False), "not re-scored yet"),
    "parents unknown": (Plan(trials=8, rescored=False, parents=()), "parents are not scored yet"),
    "nothing yet": (Plan(trials=0, rescored=False), "No candidate has finished yet."),
    "all failed": (Plan(trials=2, rescored=False, failed=(0, 1)), "0 candidates evaluated, 2 more"),
    "not even parents": (Plan(trials=0, rescored=False, parents=()), "No candidate has finished"),
    "failed, no parents": (
        Plan(trials=2, rescored=False, parents=(), failed=(0, 1)),
        "No candidate has finished yet.",
    ),
    "one omega": (Plan(trials=8, layer_groups=1, module_types=()), "1 is AIM off"),
}


@pytest.mark.parametrize("case", CASES)
def test_report_of(case: str, tmp_path: Path) -> None:
    plan, sentence = CASES[case]
    page = Page(write_report(make_run(tmp_path / "run", plan)))
    assert sentence in page.prose
    for block in page.data.values():
        figure = json.loads(block)
        go.Figure(figure["data"], figure["layout"])
    drawn = {a.get("data-figure") for _, a in page.elements} - {None}
    assert drawn == set(page.data)
    assert bool(drawn) == (plan.trials > len(plan.failed) or plan.trials > 2)


def test_a_space_without_omega_is_said_to_be_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(trials=6))
    front = read_json(run.front)
    for entry in front:
        entry["genes"] = {g: v for g, v in entry["genes"].items() if not g.startswith("omega")}
    write_json(run.front, front)
    page = Page(write_report(run))
    assert "no omega gene" in page.prose
    assert "data-omega" not in page.data


@pytest.mark.parametrize(
    ("omegas", "words"),
    [
        ([1.0], "AIM is off in all of these merges: every omega is 1."),
        ([1.0] * 9 + [0.9], "AIM is off or hardly used in these merges: "),
        ([0.98], "omegas are at least 0.98."),
        ([1.0, 0.5], ""),
    ],
)
def test_a_front_that_hardly_uses_aim_is_said_to(
    tmp_path: Path, omegas: list[float], words: str
) -> None:
    run = make_run(tmp_path / "run", Plan(trials=40))
    front, at = read_json(run.front), 0
    for entry in front:
        for gene in (g for g in entry["genes"] if g.startswith("omega")):
            entry["genes"][gene] = omegas[at % len(omegas)]
            at += 1
    write_json(run.front, front)
    prose = Page(write_report(run)).prose
    assert words in prose
    assert bool(words) == ("in these merges" in prose or "of these merges" in prose)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(names=(HOSTILE, "b"), trials=8, failed=()))
    for path in (run.front, run.parents):
        entries = read_json(path)
        entries[0]["name"] = HOSTILE
        entries[0]["recipe"]["base_model"] = HOSTILE
        write_json(path, entries)
    page = Page(write_report(run))
    assert len(page.scripts) == 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert page.words.count(HOSTILE) > 3
    for block in page.data.values():  # plotly reads a little HTML
        assert "<img" not in json.dumps(json.loads(block))
        assert HOSTILE not in json.dumps(json.loads(block))


def test_data_cannot_end_its_script_element() -> None:
    block = script_data({"name": HOSTILE})
    assert "<" not in block
    assert json.loads(block) == {"name": HOSTILE}


def test_a_front_that_has_moved_on_counts_as_not_rescored(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(trials=8))
    known = Results.read(run)
    genome = known.trials[0].genome
    ledger = ledger_of(run)
    ledger.start(8, genome)
    best = {o.name: Estimate(0.99, 0.01) for o in known.objectives}
    ledger.finish(Trial(8, genome, "done", best, 1.0))
    prose = Page(write_report(run)).prose
    assert "Trial 8 leads so far" in prose
    assert "The front is not re-scored yet" in prose


def test_an_interrupted_trial_is_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(trials=4, rescored=False))
    ledger = ledger_of(run)
    ledger.start(4, Results.read(run).trials[0].genome)
    assert "1 was under way when this was written" in Page(write_report(run)).prose


@pytest.mark.parametrize("parents", [(), ("base",)])
def test_a_search_whose_first_trial_is_running_has_a_report(
    tmp_path: Path, parents: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "run", Plan(trials=0, rescored=False, parents=parents))
    ledger_of(run).start(0, {})
    if not parents:
        run.parents.unlink()
    page = Page(write_report(run))
    assert "No candidate has finished yet." in page.prose
    assert "1 was under way when this was written" in page.prose
    assert not page.data


def test_infeasible_trials_without_parents_have_a_report(tmp_path: Path) -> None:
    plan = Plan(trials=2, rescored=False, parents=(), failed=(0,), infeasible=(1,))
    page = Page(write_report(make_run(tmp_path / "run", plan)))
    assert "No candidate keeps the constraints" in page.prose


def test_manifest_and_seeds_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Plan(trials=6))
    write_json(run.manifest, {"seeds": 4, "versions": {"torch": "2.99"}})
    page = Page(write_report(run))
    assert "versions.torch2.99" in page.words
    (band,) = [
        s for s in json.loads(page.data["data-volume"])["layout"]["shapes"] if s["type"] == "rect"
    ]
    assert band["x1"] == 3.5


def test_missing_study_and_unwritable_target_are_user_errors(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError, match="no study yet"):
        write_report(RunDir(tmp_path))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(run, tmp_path / "experiment.yaml" / "report.html")


def test_passwords_of_storage_urls_are_struck_out() -> None:
    written = experiment_yaml({"name": "a", "storage": "postgresql://me:se:cr@t@host/db"})
    assert "me:…@host/db" in written
    assert "cr" not in written


def test_volume_over_trials_ends_at_the_volume_of_everything(found: Findings) -> None:
    curve = findings.progress(found)
    assert curve == sorted(curve)
    corner = findings.reference(found, losses)
    assert corner is not None
    rows = losses(found.objectives, [e.search for e in (*found.parents, *found.trials)])
    assert curve[-1] == pytest.approx(hypervolume(rows, corner))
    assert all(v.together >= v.parents for v in findings.volumes(found))


def test_undominated_is_what_nothing_dominates(found: Findings) -> None:
    entries = [*found.front, *found.parents]
    points = [[e.report[o.name].value for o in found.objectives] for e in entries if e.report]
    for entry, point in zip(found.front, points, strict=False):
        beaten = any(np.all(np.array(q) >= point) and q != point for q in points)
        assert (entry.name in findings.undominated(found)) is not beaten


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.1))
def test_heights_are_moved_apart(heights: list[float], gap: float) -> None:
    moved = apart(sorted(heights), gap)
    assert max(moved) <= 1
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    spaced = [i / 10 for i in range(5)]
    assert apart(spaced, 0.05) == spaced


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 400)), min_size=1, max_size=6))
def test_labels_never_leave_the_panel_or_share_a_place(marks: list[tuple[float, float]]) -> None:
    names = ["name"] * len(marks)
    positions = place(names, marks, [], (900, 400))
    for (x, y), position in zip(marks, positions, strict=True):
        assert position is None or not (y < 10 and position.startswith("top"))
        assert position is None or not (x < 20 and position.endswith("left"))
    placed = [(m, p) for m, p in zip(marks, positions, strict=True) if p]
    assert len(placed) == len(set(placed))
