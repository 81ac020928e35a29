"""What a run records so that it can be repeated: models' commits, files, command line, machine."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from evoaim import Experiment, manifest, run_search
from evoaim.checkpoint import Checkpoint


def test_a_run_says_what_it_was_made_of(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["evoaim", "search", "x.yaml", "--set", "storage=postgresql://me:s:cr@t@host/db"]
    monkeypatch.setattr("sys.argv", argv)
    small = {**tiny, "budget": {"candidates": 1}}
    run_search(Experiment.from_dict(small), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "manifest.json").read_text())
    for package in ("numba", "tokenizers", "huggingface-hub", "lm-eval", "datasets"):
        assert found["versions"][package] == version(package)
    assert found["versions"]["evoaim's files"] == manifest.source_hash()
    assert "me:" in found["command"]
    assert "cr@t" not in found["command"]
    assert found["machine"]["processor"]
    assert found["revisions"] == {}  # nothing came from the hub

    text = Path(tiny["calibration"]["data"])
    other = tmp_path / text.name
    other.write_text(text.read_text().replace("w1 ", "w2 "))
    changed = {**small, "calibration": {**tiny["calibration"], "data": str(other)}}
    run_search(Experiment.from_dict(changed), tmp_path / "other")
    again = json.loads((tmp_path / "other" / "manifest.json").read_text())
    assert again["calibration"] != found["calibration"]
    assert {**again, "calibration": 0} == {**found, "calibration": 0}


def test_a_model_of_the_hub_is_recorded_by_its_commit(
    family: dict[str, str], tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--org--name" / "snapshots" / commit
    shutil.copytree(family["a"], cached)
    models = {"base": Checkpoint.open(family["base"]), "a": Checkpoint.open(str(cached))}
    assert manifest.revisions(models) == {"a": commit}
