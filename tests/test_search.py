"""The search: what a run leaves behind, and that stopping and resuming change nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evoaim import Experiment, run_search
from evoaim.errors import CandidateError, ConfigError
from evoaim.evaluator import Evaluator
from evoaim.results import Results, front_of
from evoaim.run_dir import RunDir, read_scores
from evoaim.snapshot import Snapshot
from search_spaces.recipe import Recipe


def experiment(tiny: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.from_dict({**tiny, **changes})


def record(results: Results) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, dict(t.genome), dict(t.estimates), t.reason) for t in results.trials
    ]


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run_search(experiment(tiny), folder)
    return folder


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


class StopAfter:
    """A progress that presses Ctrl-C after so many candidates."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, 0

    def stage(self, text: str) -> None: ...

    def candidate(self, snapshot: Snapshot) -> None:
        self.seen += 1
        if self.seen == self.n:
            raise Stop


def test_a_run_leaves_what_the_contract_says(finished: Path, tiny: dict[str, Any]) -> None:
    results = Results.read(RunDir(finished))
    assert len(results.trials) == 22
    assert [o.name for o in results.objectives] == ["one", "two"]
    front = json.loads((finished / "front.json").read_text())
    assert front
    assert all({"trial", "genes", "recipe", "search", "report"} <= set(entry) for entry in front)
    assert all(
        set(entry[split]["one"]) == {"value", "stderr"}
        for entry in front
        for split in ("search", "report")
    )
    parents = json.loads((finished / "parents.json").read_text())
    assert [p["name"] for p in parents] == ["base", "a", "b", "c"]
    for trial in results.trials:
        recipe = Recipe.from_yaml(finished / "recipes" / f"trial_{trial.number}.yaml")
        assert recipe.merge_method == "ties"
        scores = read_scores(finished / "responses" / "search" / f"trial_{trial.number}.json")
        assert scores is not None
        assert scores["one/acc"].total.mean() == pytest.approx(trial.estimates["one"].value)
        assert len(scores["one/acc"].documents) == 20
    for name in ("experiment.yaml", "study.db", "importance.safetensors", "manifest.json"):
        assert (finished / name).is_file()
    again = Experiment.from_yaml(finished / "experiment.yaml")
    assert again == experiment(tiny)


def test_genes_are_parameters_of_optuna_trials(finished: Path) -> None:
    import optuna

    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{finished / 'study.db'}")
    assert study.metric_names == ["one", "two"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert len(study.trials) == 22
    first = study.trials[0]
    assert first.params["weight.a"] == 1.0
    assert first.params["omega"] == 1.0
    distinct = {json.dumps(t.params, sort_keys=True) for t in study.trials}
    assert len(distinct) == 22, "no candidate is evaluated twice"


def test_the_experts_come_first_and_score_as_themselves(finished: Path) -> None:
    results = Results.read(RunDir(finished))
    for trial, parent in zip(results.trials, results.parents[1:], strict=False):
        for name, estimate in parent.search.items():
            assert trial.estimates[name].value == pytest.approx(estimate.value)


OPTIMIZERS: list[Any] = [
    {"kind": "nsga2", "population": 6},
    {"kind": "tpe"},
    {"kind": "m2n2", "population": 6, "batch": 4},
    [{"kind": "qmc", "candidates": 4}, {"kind": "m2n2", "population": 6}],
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("after", [1, 9, 17])
def test_interrupted_and_resumed_equals_uninterrupted(
    tiny: dict[str, Any],
    finished: Path,
    tmp_path: Path,
    optimizer: Any,
    after: int,
) -> None:
    spec = experiment(tiny, optimizer=optimizer)
    with pytest.raises(Stop):
        run_search(spec, tmp_path / "cut", StopAfter(after))
    resumed = run_search(spec, tmp_path / "cut")
    whole = finished
    if optimizer != OPTIMIZERS[0]:
        whole = tmp_path / "whole"
        run_search(spec, whole)
    assert record(resumed) == record(Results.read(RunDir(whole)))
    assert (tmp_path / "cut" / "front.json").read_text().replace("cut", "") == (
        whole / "front.json"
    ).read_text().replace(whole.name, "").replace(str(whole.parent), str(tmp_path))


def test_a_larger_budget_continues(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    run_search(experiment(tiny, budget={"candidates": 5}), tmp_path / "run")
    longer = run_search(experiment(tiny), tmp_path / "run")
    assert record(longer) == record(Results.read(RunDir(finished)))


def test_the_minutes_of_a_budget_end_a_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    results = run_search(experiment(tiny, budget={"minutes": 1e-6}), tmp_path / "run")
    assert len(results.trials) == 1


def test_a_small_discrete_space_is_exhausted(tiny: dict[str, Any], tmp_path: Path) -> None:
    space = {
        "method": "task_arithmetic",
        "genes": {"weight": {"low": 0.0, "high": 0.002}},
    }
    results = run_search(
        experiment(tiny, search_space=space, budget={"candidates": 100}), tmp_path / "run"
    )
    assert {t.genome["weight"] for t in results.trials} == {0.0, 0.001, 0.002}


def test_failed_candidates_are_failed_trials_with_reasons(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    space = {
        "method": "task_arithmetic",
        "genes": {"weight": {"per": ["expert"], "low": -1e38, "high": 1e38}},
        "fixed": {"lambda": 1e3},
    }
    results = run_search(
        experiment(tiny, search_space=space, budget={"candidates": 14}), tmp_path / "run"
    )
    failed = [t for t in results.trials if t.state == "failed"]
    assert failed
    assert all("not finite" in t.reason for t in failed)
    assert [t.number for t in results.trials] == list(range(14))


def test_refusals_write_nothing(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    bad = experiment(
        tiny, fitness={**tiny["fitness"], "estimator": {"kind": "sample_mean", "documents": 41}}
    )
    with pytest.raises(ValueError, match="41 documents asked for, 40 available"):
        run_search(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    other = experiment(tiny, seed=5)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"belongs to another experiment.*seed: 0 there, 5 here"):
        run_search(other, finished)
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_a_run_of_an_earlier_version_is_called_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    new = experiment(tiny).to_dict()
    RunDir(tmp_path / "run").open({k: v for k, v in new.items() if k != "warm_start"})
    with pytest.raises(ConfigError, match="without warm_start: another version of evoaim began it"):
        RunDir(tmp_path / "run").check(new)


def test_a_changed_panel_is_noticed(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    copy, tasks = tmp_path / "copy", tmp_path / "tasks"
    shutil.copytree(finished, copy)
    shutil.copytree(tiny["fitness"]["task_path"], tasks)
    file = tasks / "data" / "one.search.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    text = (copy / "experiment.yaml").read_text()
    (copy / "experiment.yaml").write_text(text.replace(tiny["fitness"]["task_path"], str(tasks)))
    moved = experiment(tiny, fitness={**tiny["fitness"], "task_path": str(tasks)})
    with pytest.raises(ConfigError, match="the search documents of one changed since"):
        run_search(moved, copy)


def test_one_storage_does_not_mix_experiments(tiny: dict[str, Any], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    short = {"candidates": 3}
    run_search(experiment(tiny, storage=storage, budget=short), tmp_path / "one")
    with pytest.raises(ConfigError, match="was made by another experiment"):
        run_search(experiment(tiny, storage=storage, budget=short, seed=7), tmp_path / "two")
    assert not (tmp_path / "two" / "experiment.yaml").exists()


def test_an_interrupted_continuation_shows_no_stale_front(
    tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    with pytest.raises(Stop):
        run_search(experiment(tiny, budget={"candidates": 60}), copy, StopAfter(30))
    results = Results.read(RunDir(copy))
    assert len(results.trials) > 22
    numbers = [t.number for t in front_of(results.objectives, results.trials)]
    assert [e.trial for e in results.front] in ([], numbers)
    assert all(p.report for p in results.parents), "known report scores are kept"


def test_a_changed_model_is_noticed(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["models"]["b"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="the model 'b' has changed since the run began"):
        run_search(experiment(tiny), copy)


def test_another_proposal_than_the_recorded_one_is_an_error(
    tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    import sqlite3

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    with sqlite3.connect(copy / "study.db") as db:
        db.execute("update trial_params set param_value = 0.123 where param_name = 'omega'")
    db.close()
    with pytest.raises(ConfigError, match="trial 0 is recorded with"):
        run_search(experiment(tiny), copy)


def test_same_seed_same_run_another_seed_another(
    tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    again = run_search(experiment(tiny), tmp_path / "again")
    assert record(again) == record(Results.read(RunDir(finished)))
    other = run_search(experiment(tiny, seed=1), tmp_path / "other")
    assert record(other) != record(again)


def test_candidate_errors_carry_their_reason(tiny: dict[str, Any]) -> None:
    evaluator = Evaluator.of(experiment(tiny)).calibrated()
    broken = Recipe.from_dict(
        {
            "merge_method": "linear",
            "models": [{"model": m, "parameters": {"weight": w}} for m, w in (("a", 1), ("b", -1))],
        }
    )
    with pytest.raises(CandidateError, match="sum to zero"):
        evaluator.score(broken, "search")
