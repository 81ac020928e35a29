"""Searches that spend documents carefully: panels, racing, promotion, constraints, reuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from evoaim import Experiment, run_search
from evoaim.errors import ConfigError
from evoaim.ledger import Ledger, sqlite_url
from evoaim.results import Results
from evoaim.run_dir import RunDir, read_scores
from evoaim.snapshot import Snapshot
from fitness.errors import FitnessError

EAGER = {
    "estimator": {"kind": "greg", "documents": 30},
    "racing": {"alpha": 0.45, "looks": [0.3, 0.5, 0.7]},
    "promotion": {"share": 0.5, "finalists": 4},
}


def spec(tiny: dict[str, Any], fitness: dict[str, Any] = EAGER, **changes: Any) -> Experiment:
    data = {**tiny, "fitness": {**tiny["fitness"], **fitness}, **changes}
    return Experiment.from_dict(data)


def words(folder: Path) -> Path:
    """A text file over the words of the tiny models."""
    lines = [{"text": " ".join(f"w{(i * j + i) % 64}" for j in range(1, 9))} for i in range(12)]
    file = folder / "text.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="module")
def finished(zoo_search: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("careful") / "run"
    run_search(Experiment.from_dict(zoo_search), folder)
    return folder


def record(results: Results) -> list[tuple[Any, ...]]:
    return [(t.number, dict(t.genome), dict(t.estimates), t.raced) for t in results.trials]


def test_parents_are_scored_in_full_and_candidates_on_the_same_panel(finished: Path) -> None:
    results = Results.read(RunDir(finished))
    for parent in results.parents:
        scores = read_scores(finished / "responses" / "search" / f"{parent.name}.json")
        assert scores is not None
        assert len(scores["zoo_math/acc"].documents) == 200
        assert parent.search["math"].stderr == 0
    promoted = {
        e["trial"] for e in json.loads((finished / "promoted.json").read_text())["promoted"]
    }
    panels = set()
    for t in results.trials:
        if not t.raced and t.number not in promoted:
            scores = read_scores(finished / "responses" / "search" / f"trial_{t.number}.json")
            assert scores is not None
            panels.add(frozenset(scores["zoo_math/acc"].documents))
    smallest = min(panels, key=len)
    assert len(smallest) == 50
    assert all(smallest <= panel for panel in panels)


def test_a_raced_out_candidate_keeps_its_estimates_and_is_never_in_the_front(
    finished: Path,
) -> None:
    results = Results.read(RunDir(finished))
    raced = [t for t in results.trials if t.raced]
    assert raced
    for t in raced:
        assert t.estimates["math"].documents < 50
        assert t.state == "done"
        assert not t.eligible
    assert not {t.number for t in raced} & {e.trial for e in results.front}


def test_optuna_knows_that_it_is_infeasible(finished: Path) -> None:
    import optuna

    study = optuna.load_study(study_name="quickstart", storage=sqlite_url(finished / "study.db"))
    raced = {t.number for t in Results.read(RunDir(finished)).trials if t.raced}
    assert raced
    assert study.best_trials
    assert not raced & {t.number for t in study.best_trials}
    assert all(study.trials[n].values is not None for n in raced)


def test_the_front_is_promoted_and_its_last_figures_are_exact(finished: Path) -> None:
    front = json.loads((finished / "front.json").read_text())
    assert front
    for entry in front:
        assert set(entry["promoted"]["math"]) == {"value", "stderr"}
        if entry["promoted"]["math"]["stderr"] == 0:
            scores = read_scores(finished / "responses" / "search" / f"trial_{entry['trial']}.json")
            assert scores is not None
            right = scores["zoo_math/acc"].total
            assert len(right) == 200
            assert entry["promoted"]["math"]["value"] == pytest.approx(right.mean())
    finalists = json.loads((finished / "promoted.json").read_text())
    assert finalists["trials"] == 28
    assert {e["trial"] for e in front} <= {e["trial"] for e in finalists["promoted"]}
    for entry in finalists["promoted"]:
        kept = entry["trial"] in {e["trial"] for e in front}
        assert (entry["report"] is not None) == kept


class Stop(KeyboardInterrupt):
    """Ctrl-C."""


class StopAfter:
    """A progress that presses Ctrl-C after so many candidates."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, 0

    def stage(self, text: str) -> None: ...

    def candidate(self, snapshot: Snapshot) -> None:
        self.seen += 1
        if self.seen == self.n:
            raise Stop


@pytest.mark.parametrize("after", [2, 13])
def test_interrupted_and_resumed_equals_uninterrupted(
    zoo_search: dict[str, Any], tmp_path: Path, finished: Path, after: int
) -> None:
    with pytest.raises(Stop):
        run_search(Experiment.from_dict(zoo_search), tmp_path / "run", StopAfter(after))
    resumed = run_search(Experiment.from_dict(zoo_search), tmp_path / "run")
    assert record(resumed) == record(Results.read(RunDir(finished)))
    fronts = [json.loads((f / "front.json").read_text()) for f in (tmp_path / "run", finished)]
    assert [[e["trial"], e["promoted"], e["report"]] for e in fronts[0]] == [
        [e["trial"], e["promoted"], e["report"]] for e in fronts[1]
    ]


def test_a_larger_budget_continues_as_if_it_had_never_stopped(
    zoo_search: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    run_search(Experiment.from_dict({**zoo_search, "budget": {"candidates": 9}}), tmp_path / "run")
    longer = run_search(Experiment.from_dict(zoo_search), tmp_path / "run")
    assert record(longer) == record(Results.read(RunDir(finished)))


def test_racing_never_changes_what_the_others_are_compared_by(
    zoo_search: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    whole = run_search(
        Experiment.from_dict({**zoo_search, "fitness": {**zoo_search["fitness"], "racing": False}}),
        tmp_path / "run",
    )
    raced = Results.read(RunDir(finished))
    assert not any(t.raced for t in whole.trials)
    first = next(i for i, t in enumerate(raced.trials) if t.raced)
    for a, b in zip(whole.trials[:first], raced.trials[:first], strict=True):
        assert {n: e.ranked for n, e in a.estimates.items()} == {
            n: e.ranked for n, e in b.estimates.items()
        }


def test_the_strict_rule_and_every_optimizer_take_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    fitness = {**EAGER, "racing": {"kind": "strict", "alpha": 0.45}}
    for optimizer in ("tpe", "random"):
        run_search(
            spec(tiny, fitness, optimizer={"kind": optimizer}, budget={"candidates": 6}),
            tmp_path / optimizer,
        )


def test_texts_weights_and_constraints(tiny: dict[str, Any], tmp_path: Path) -> None:
    text = str(words(tmp_path))
    objectives = [
        {"name": "one", "tasks": ["one"]},
        {"name": "text", "text": text, "metric": "perplexity", "goal": "watch"},
        {"name": "drift", "text": text, "metric": "kl_to_base", "goal": "minimize"},
        {"name": "far", "metric": "distance_to_base", "goal": "watch"},
    ]
    experiment = spec(tiny, objectives=objectives, keep=["far <= 0.5 * a", "text <= 1.02 * base"])
    results = run_search(experiment, tmp_path / "run")
    assert [o.name for o in results.objectives] == ["one", "drift"]
    (base,) = (p for p in results.parents if p.name == "base")
    assert base.search["drift"].value == pytest.approx(0, abs=1e-6)
    assert base.search["far"].value == 0
    (a,) = (p for p in results.parents if p.name == "a")
    limit, reach = 1.02 * base.search["text"].value, 0.5 * a.search["far"].value
    assert any(t.violation > 0 for t in results.trials)
    for t in results.trials:
        broken = t.estimates["far"].value > reach or t.estimates["text"].value > limit
        assert (t.violation > 0) == broken
    for e in results.front:
        assert e.search["far"].value <= reach
        assert e.report is not None
        assert e.report["far"].value == pytest.approx(e.search["far"].value)


def test_searches_on_texts_alone_race_nobody(tiny: dict[str, Any], tmp_path: Path) -> None:
    objectives = [{"name": "text", "text": str(words(tmp_path)), "goal": "minimize"}]
    results = run_search(
        spec(tiny, objectives=objectives, budget={"candidates": 12}), tmp_path / "r"
    )
    assert not any(t.raced for t in results.trials)


def test_when_no_candidate_keeps_the_constraints_the_front_is_empty(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    results = run_search(spec(tiny, keep="one >= 1.5", budget={"candidates": 6}), tmp_path / "run")
    assert results.front == ()
    assert all(t.violation > 0 for t in results.trials)
    assert json.loads((tmp_path / "run" / "front.json").read_text()) == []
    run_search(spec(tiny, keep="one >= 1.5", budget={"candidates": 6}), tmp_path / "run")


def test_promoted_candidates_keep_constraints_by_what_all_documents_say(
    zoo_search: dict[str, Any], tmp_path: Path
) -> None:
    data = {**zoo_search, "keep": ["italian >= 1.2 * base"], "budget": {"candidates": 16}}
    results = run_search(Experiment.from_dict(data), tmp_path / "run")
    (base,) = (p for p in results.parents if p.name == "base")
    for entry in results.front:
        assert entry.promoted is not None
        assert entry.promoted["italian"].value >= 1.2 * base.search["italian"].value


def test_racing_needs_no_files_of_an_earlier_session(
    zoo_search: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        run_search(Experiment.from_dict(zoo_search), run, StopAfter(17))
    for file in (run / "responses" / "search").glob("trial_*.json"):
        file.unlink()
    resumed = run_search(Experiment.from_dict(zoo_search), run)
    assert record(resumed) == record(Results.read(RunDir(finished)))


def test_a_shorter_budget_shows_a_front(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run_search(spec(tiny), tmp_path / "run", StopAfter(8))
    shorter = run_search(spec(tiny, budget={"candidates": 7}), tmp_path / "run")
    assert shorter.front


def test_the_plain_mean_of_an_uneven_panel_is_refused(tiny: dict[str, Any]) -> None:
    fitness = {"panel": {"kind": "disagreement"}}
    with pytest.raises(ConfigError, match=r"not equally probable.*take difficulty, random, strat"):
        Experiment.from_dict({**tiny, "fitness": {**tiny["fitness"], **fitness}})


def test_earlier_runs_lend_their_models(tiny: dict[str, Any], tmp_path: Path) -> None:
    full = {"estimator": {"kind": "sample_mean", "documents": None}}
    run_search(spec(tiny, full), tmp_path / "earlier")
    fitness = {"estimator": {"kind": "p_irt", "documents": 20}, "racing": False}
    with pytest.raises(FitnessError, match=r"'p_irt' needs \d+ models .*, the search has 4"):
        run_search(spec(tiny, fitness), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    far = {"name": "far", "metric": "distance_to_base", "goal": "watch"}  # is no task of theirs
    lent = {"objectives": [*tiny["objectives"], far], "responses": [str(tmp_path / "earlier")]}
    helped = spec(tiny, fitness, **lent, budget={"candidates": 6})
    results = run_search(helped, tmp_path / "helped")
    assert all(0 <= t.estimates["one"].value <= 1 for t in results.trials)
    for name in ("base", "a"):  # parents are lent, too, and not scored again
        ours, theirs = (
            read_scores(tmp_path / run / "responses" / "search" / f"{name}.json")
            for run in ("helped", "earlier")
        )
        assert ours is not None
        assert theirs is not None
        assert ours["one/acc"].total.tolist() == theirs["one/acc"].total.tolist()
    # what was lent is kept: the earlier run may go on, or go
    (tmp_path / "earlier").rename(tmp_path / "gone")
    longer = spec(tiny, fitness, **lent, budget={"candidates": 8})
    again = run_search(longer, tmp_path / "helped")
    assert record(again)[:6] == record(results)


def test_responses_of_other_tasks_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    other = [{"name": "two", "tasks": ["two"]}]
    run_search(spec(tiny, objectives=other, budget={"candidates": 2}), tmp_path / "two")
    with pytest.raises(ConfigError, match=r"two' has no scores of one; it scored two"):
        run_search(spec(tiny, responses=[str(tmp_path / "two")]), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"responses: .* is not a run directory"):
        run_search(spec(tiny, responses=[str(tmp_path)]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_may_be_given_some_of_the_documents(tiny: dict[str, Any], tmp_path: Path) -> None:
    fitness = {**EAGER, "estimator": {"kind": "greg", "documents": 10}, "search_documents": 15}
    run_search(spec(tiny, fitness, budget={"candidates": 6}), tmp_path / "run")
    scores = read_scores(tmp_path / "run" / "responses" / "search" / "base.json")
    assert scores is not None
    assert len(scores["one/acc"].documents) == 15


def test_the_ledger_reads_back_what_it_was_told(finished: Path) -> None:
    ledger = Ledger.read(sqlite_url(finished / "study.db"), "quickstart")
    trial = next(t for t in ledger.trials() if not t.raced)
    assert trial.estimates["math"].documents == 50
    assert trial.estimates["math"].rank_value is not None
    assert trial.seconds > 0
