"""The run directory: whole files or none, one experiment, one writer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoaim.errors import ConfigError
from evoaim.run_dir import (
    RunDir,
    existing,
    read_json,
    read_scores,
    write_json,
    write_scores,
    write_text,
)
from fitness.types import DocumentScores

EXPERIMENT: dict[str, Any] = {
    "name": "x",
    "models": {"base": "b", "experts": {"a": "x"}, "device": "auto"},
    "objectives": [{"name": "o", "tasks": ["t"]}],
    "fitness": {"batch_size": 64, "estimator": {"kind": "sample_mean"}},
    "budget": {"candidates": 3},
    "calibration": None,
}


def files(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "deep" / "run")
    run.check(EXPERIMENT)
    assert not run.path.exists()
    run.open(EXPERIMENT)
    return run


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "a.json"
    write_json(file, {"a": "é", "b": [1.5, None]})
    assert read_json(file) == {"a": "é", "b": [1.5, None]}
    before = file.read_bytes()
    for attempt in (
        lambda: write_json(file, {"a": float("nan")}),
        lambda: write_json(file, {"a": object()}),
        lambda: write_text(file, "half \ud800"),
    ):
        with pytest.raises((ValueError, TypeError)):
            attempt()
        assert file.read_bytes() == before
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "folder", "text")
    assert files(tmp_path) == ["sub/a.json"]


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"front.json': no such file; has the search finished"):
        read_json(tmp_path / "front.json")
    (tmp_path / "front.json").write_text('{"a": ')
    with pytest.raises(ConfigError, match=r"front.json': is damaged"):
        read_json(tmp_path / "front.json")
    with pytest.raises(ConfigError, match=r"' is not a run directory .*`evoaim search` makes one"):
        existing(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere': no such folder; `evoaim search` makes"):
        existing(tmp_path / "nowhere")


def test_scores_come_back_exactly(run: RunDir) -> None:
    total = np.array([1 / 3, -1e-300, 0.0])
    scores = {"t/acc": DocumentScores(("x", "y", "z"), total, np.array([1.0, 7.0, 0.0]))}
    path = run.responses("trial_3", "search")
    assert read_scores(path) is None
    write_scores(path, scores)
    read = read_scores(path)
    assert read is not None
    assert read.keys() == scores.keys()
    assert read["t/acc"].documents == ("x", "y", "z")
    assert read["t/acc"].total.tolist() == total.tolist()
    assert read["t/acc"].weight.tolist() == [1.0, 7.0, 0.0]
    assert files(run.path) == ["experiment.yaml", "responses/search/trial_3.json"]


def changed(**changes: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(EXPERIMENT))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    return data


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"minutes": 5.0}},
        {"models__device": "cuda:1"},
        {"fitness__batch_size": 1},
    ],
)
def test_a_search_may_go_on_with_another_budget_or_device(
    run: RunDir, changes: dict[str, Any]
) -> None:
    run.check(changed(**changes))
    run.open(changed(**changes))
    assert existing(run.path) == run
    run.check(EXPERIMENT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "y"}, r"name: 'x' there, 'y' here"),
        ({"models__base": "c"}, r"models.base: 'b' there, 'c' here"),
        ({"models__experts": {"a": "x", "b": "y"}}, r"models.experts.b: None there, 'y' here"),
        ({"fitness__estimator__kind": "irt"}, r"fitness.estimator.kind: 'sample_mean' there"),
        ({"calibration": {"data": "d"}}, r"calibration: None there, \{'data': 'd'\} here"),
        ({"objectives": []}, r"objectives: \[\{.*\}\] there, \[\] here"),
        ({"seed": 1}, r"without seed: another version of evoaim began it"),
    ],
)
def test_another_experiment_is_refused_by_key(
    run: RunDir, changes: dict[str, Any], message: str
) -> None:
    before = files(run.path)
    with pytest.raises(ConfigError, match=rf"another experiment \({message}.*another --run-dir"):
        run.check(changed(**changes))
    assert files(run.path) == before


def test_only_new_empty_or_own_directories_are_taken(tmp_path: Path) -> None:
    RunDir(tmp_path).check(EXPERIMENT)
    (tmp_path / ".experiment.yaml.123").touch()  # what a kill during `open` leaves
    RunDir(tmp_path).check(EXPERIMENT)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"is not empty and not a run; give another --run-dir"):
        RunDir(tmp_path).check(EXPERIMENT)
    with pytest.raises(ConfigError, match=r"is a file; give another --run-dir"):
        RunDir(tmp_path / "thesis.tex").check(EXPERIMENT)
    with pytest.raises(ConfigError, match=r"cannot be written"):
        RunDir(tmp_path / "thesis.tex" / "run").open(EXPERIMENT)


def test_one_process_holds_the_lock(run: RunDir) -> None:
    program = f"""
from pathlib import Path
from evoaim.errors import ConfigError
from evoaim.run_dir import RunDir
try:
    with RunDir(Path({str(run.path)!r})).locked():
        print("got it")
except ConfigError as error:
    print(error)
"""

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        return done.stdout

    with run.locked():
        assert "another evoaim search is writing it" in other()
        with pytest.raises(ConfigError, match=r"another evoaim search"), run.locked():
            pass
    assert other() == "got it\n"
