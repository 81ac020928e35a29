"""kill -9 at random moments: the resumed study has the trials of an uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def killed_and_resumed(spec: dict[str, Any], folder: Path, kills: int) -> dict[str, Any]:
    (folder / "experiment.json").write_text(json.dumps(spec))
    runner = Path(__file__).with_name("kill_runner.py")
    done = subprocess.run(
        [sys.executable, runner, folder / "experiment.json", folder, str(kills)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["killed"] >= kills - 2, "a search may end before its kill, but not most of them"
    return result


@pytest.mark.parametrize("optimizer", ["nsga2", "tpe"])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    options = {"population": 6} if optimizer == "nsga2" else {}
    spec = {**tiny, "optimizer": {"kind": optimizer, **options}, "budget": {"candidates": 24}}
    result = killed_and_resumed(spec, tmp_path, 5)
    assert len(result["whole"]) == 24
    assert result["resumed"] == result["whole"]


def test_racing_promotion_and_refitting_change_nothing_about_that(
    zoo_search: dict[str, Any], tmp_path: Path
) -> None:
    result = killed_and_resumed(zoo_search, tmp_path, 3)
    assert len({raced for *_, raced in result["whole"]}) == 2, "some were raced out, some not"
    assert result["resumed"] == result["whole"]
    fronts = [
        json.loads((tmp_path / run / "front.json").read_text()) for run in ("whole", "killed")
    ]
    whole, killed = ([{**e, "recipe": None} for e in front] for front in fronts)
    assert killed == whole
