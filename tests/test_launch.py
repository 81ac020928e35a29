"""Launch scripts: sound as shell scripts, true to the command line, and a search survives them."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from evoaim.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "launch"
SCRIPTS = sorted(p for p in FOLDER.iterdir() if p.suffix in {".sh", ".sbatch"})
zoo = pytest.mark.skipif(not (ROOT / "zoo" / "base").is_dir(), reason="needs the demo zoo")
# The quickstart's search, cut to what shows that it ran.
SMALL = (
    "budget.candidates=8",
    "fitness.estimator={kind: sample_mean, documents: 10}",
    "fitness.report_documents=10",
    "optimizer.population=4",
    "calibration.documents=16",
)


def environment(folder: Path, **programs: str) -> dict[str, str]:
    """This environment with shell scripts in place of some programs, Slurm's among them."""
    here = {"scontrol": f'echo "$@" >> {folder}/slurm.log', **programs}
    for name, body in here.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]"}


def launched(script: str, folder: Path, **programs: str) -> tuple[int, list[str]]:
    """A script's exit status and how it called evoaim, which `programs` stand for here."""
    log = folder / "calls.log"
    log.unlink(missing_ok=True)
    programs["evoaim"] = f'echo "$@" >> {log}\n' + programs["evoaim"]
    name, *verbs = script.split()
    call = [str(FOLDER / name), *verbs, "x.yaml", "run", "--set", "seed=1"]
    env = environment(folder, **programs)
    done = subprocess.run(call, env=env, capture_output=True, check=False, timeout=60)
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def command(script: str, run: Path, *options: str) -> list[str]:
    sets = [part for text in (*SMALL, *options) for part in ("--set", text)]
    return [str(FOLDER / script), "experiments/quickstart.yaml", str(run), *sets]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_a_script_is_sound_and_says_how_it_is_used(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert script.stat().st_mode & stat.S_IXUSR
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert "#   usage: " in text
    called = subprocess.run([script], capture_output=True, text=True, check=False)
    assert called.returncode != 0
    assert "usage: " in called.stderr


@pytest.mark.parametrize("file", [*SCRIPTS, FOLDER / "README.md"], ids=lambda p: p.name)
def test_options_are_those_of_the_command_line(file: Path) -> None:
    search = get_command(app).commands["search"]  # type: ignore[attr-defined]
    known = {option for parameter in search.params for option in parameter.opts}
    calls = re.findall(r"(?:evoaim search|local\.sh\" )(.*)", file.read_text())
    used = {o for call in calls for o in re.findall(r"(?<!\S)--[a-z-]+", call)}
    assert used <= known
    assert calls or file.suffix == ".md"


@pytest.mark.parametrize(
    ("ends", "status", "calls"),
    [("1 9 0", 0, 3), ("1 1 7 0", 7, 3), ("2 0", 2, 1), ("1 130 0", 130, 2)],
)
def test_local_goes_on_after_crashes_only(
    tmp_path: Path, ends: str, status: int, calls: int
) -> None:
    log = tmp_path / "calls.log"
    evoaim = f'ends=({ends})\nexit "${{ends[$(($(wc -l < {log}) - 1))]}}"'
    expected = ["search x.yaml --run-dir run --set seed=1"] * calls
    assert launched("local.sh", tmp_path, evoaim=evoaim) == (status, expected)


def test_every_gpu_gets_a_worker(tmp_path: Path) -> None:
    found = launched("several_gpus.sh", tmp_path, evoaim="exit 0", python="echo 3")
    assert found == (0, ["search x.yaml --run-dir run --workers 3 --set seed=1"])
    assert launched("several_gpus.sh", tmp_path, evoaim="exit 0", python="echo 0") == (2, [])
    found = launched("ray_cluster.sh search", tmp_path, evoaim="exit 0", python="echo 5")
    assert found == (0, ["search x.yaml --run-dir run --ray auto --workers 5 --set seed=1"])


def test_a_job_of_several_nodes_searches_when_all_have_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm and Ray as they answer: the cluster has as many nodes as have been started."""
    log = tmp_path / "srun.log"
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    programs = {
        "scontrol": "printf 'one\\ntwo\\nthree\\n'",
        "srun": f'for _ in $(seq ${{1#--nodes=}}); do echo "$@" >> {log}; done\nexec /bin/sleep 9',
        "ray": f"grep -c . {log} | xargs seq -f 'node_%g'",
        "sleep": "exec /bin/sleep 0.2",
    }
    status, calls = launched("slurm_ray.sbatch", tmp_path, evoaim=f"wc -l < {log}", **programs)
    assert status == 0
    assert len(calls) == 1
    assert re.fullmatch(
        r"search x.yaml --run-dir run --ray \S+:20007 --workers 6 --set seed=1", calls[0]
    )
    head, others, _ = log.read_text().splitlines()
    assert "ray start --head" in head
    assert "--nodes=2 --ntasks=2 --exclude=one ray start" in others


@zoo
def test_local_runs_a_search(tmp_path: Path) -> None:
    run = tmp_path / "run"
    env = environment(tmp_path)
    done = subprocess.run(
        command("local.sh", run), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "front.json").read_text())


@zoo
def test_a_slurm_job_whose_time_is_up_stops_in_order_and_is_queued_again(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "slurm.log"
    job = subprocess.Popen(
        command("slurm.sbatch", run, "budget.candidates=100000"),
        cwd=ROOT,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    responses = run / "responses"
    while job.poll() is None and not list(responses.glob("**/trial_*")):
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "everything finished is kept" in " ".join(err.split())
    assert log.read_text() == "requeue 7\n"
