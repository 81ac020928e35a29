"""kill -9 at random moments: the resumed study has the trials of an uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("optimizer", ["nsga2", "tpe"])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    options = {"population": 6} if optimizer == "nsga2" else {}
    spec = {**tiny, "optimizer": {"kind": optimizer, **options}, "budget": {"candidates": 24}}
    (tmp_path / "experiment.json").write_text(json.dumps(spec))
    runner = Path(__file__).with_name("kill_runner.py")
    done = subprocess.run(
        [sys.executable, runner, tmp_path / "experiment.json", tmp_path, "5"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["killed"] >= 3, "a search may end before its kill, but not most of them"
    assert len(result["whole"]) == 24
    assert result["resumed"] == result["whole"]
