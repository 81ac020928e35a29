"""Ray actors as workers: the trials of one process, whoever dies on the way, and nobody is left."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from evoaim import Experiment, run_search
from evoaim.crew import Crew
from evoaim.errors import ConfigError
from evoaim.results import Results
from evoaim.run_dir import RunDir
from evoaim.scoring import alone
from evoaim.snapshot import Snapshot
from evoaim.work import ATTEMPTS, Job
from fitness.types import Panel

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the ray extra", allow_module_level=True)
from evoaim import ray_workers  # first: it sets what Ray reads when it is imported
from evoaim.ray_workers import RayWorkers

import ray  # isort: skip

pytestmark = pytest.mark.filterwarnings("default:::ray", "default::ResourceWarning")


def trials(folder: Path) -> list[object]:
    return [
        (
            t.number,
            t.state,
            dict(t.genome),
            {n: (e.value, e.stderr, e.ranked, e.documents) for n, e in t.estimates.items()},
            t.violation,
            t.raced,
            t.reason,
        )
        for t in Results.read(RunDir(folder)).trials
    ]


def actors() -> list[psutil.Process]:
    """The worker processes below this one, by the name that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if " ".join(process.cmdline()).startswith("ray::EvoaimWorker"):
                found.append(process)
    return found


def kill_at_work(crew: Crew[Any], n: int) -> None:
    """Kill `n` workers of a crew of one, each as soon as it has the job."""
    seen: set[int] = set()
    while len(seen) < n:
        fresh = [a for a in actors() if a.pid not in seen]
        (place,) = crew._places
        while fresh and place is crew._places[0] and place.ticket is None:
            time.sleep(0.001)
        if fresh and place is crew._places[0]:
            seen.add(fresh[0].pid)
            fresh[0].kill()
        time.sleep(0.01)


class Killer:
    """Kills a worker with signal 9 in the midst of a candidate."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.killed = 0

    def stage(self, text: str) -> None:
        pass

    def candidate(self, snapshot: Snapshot) -> None:
        if snapshot.done >= self.after and not self.killed:
            victim = actors()[0]
            victim.suspend()  # so it is at a candidate until it is killed
            threading.Timer(2.0, victim.kill).start()
            self.killed += 1


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:{}", "127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_refused(tiny: dict[str, Any], address: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = address.format(taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"--ray {address}: .* expected: auto"):
            RayWorkers.start(Experiment.from_dict(tiny), 1, address)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A running Ray that this process has joined, with two CPUs."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


def test_two_actors_find_what_one_process_finds_also_if_one_is_killed(
    tiny: dict[str, Any], tmp_path: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment.from_dict(tiny)
    run_search(experiment, tmp_path / "one")
    killer = Killer(after=5)
    capfd.readouterr()
    run_search(experiment, tmp_path / "two", killer, workers=2, ray="auto")
    assert killer.killed == 1
    assert trials(tmp_path / "two") == trials(tmp_path / "one")
    assert ray.is_initialized(), "not the search's to end"
    out, err = capfd.readouterr()
    assert "worker" not in out + err, "Ray has not told of it on the terminal"
    assert actors() == []


def test_a_candidate_whose_actors_all_die_fails_with_the_reason(
    tiny: dict[str, Any], tmp_path: Path, cluster: None
) -> None:
    experiment = Experiment.from_dict(tiny)
    crew = RayWorkers.start(experiment, 1, "auto")
    try:
        crew.prepare(RunDir(tmp_path))
        job = Job(alone(experiment.models.base), "search", (Panel({"one": tuple(range(40))}),))
        killer = threading.Thread(target=kill_at_work, args=(crew, ATTEMPTS), daemon=True)
        killer.start()
        crew.submit(7, job)
        ticket, answer = crew.answer()
        killer.join(60)
        assert ticket == 7
        assert answer.reason == (
            "lost 3 workers, the last one was killed or has crashed (out of memory?)"
        )
    finally:
        crew.close()


def test_more_actors_than_the_cluster_has_room_for_are_refused(
    tiny: dict[str, Any], cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.from_dict(tiny)
    monkeypatch.setattr(ray_workers, "PATIENCE", 1.0)
    with pytest.raises(ConfigError, match=r"--workers 3: . Ray actors have started .* has 2 and"):
        RayWorkers.start(experiment, 3, "auto")
    models = {**tiny["models"], "device": "cuda"}
    experiment = Experiment.from_dict({**tiny, "models": models})
    with pytest.raises(ConfigError, match="each takes a GPU, of which the cluster has 0"):
        RayWorkers.start(experiment, 1, "auto")


def test_a_model_that_is_not_there_is_refused(
    tiny: dict[str, Any], tmp_path: Path, cluster: None
) -> None:
    models = {**tiny["models"], "experts": {"a": str(tmp_path / "none")}}
    experiment = Experiment.from_dict({**tiny, "models": models})
    with pytest.raises(ConfigError, match="none"):
        run_search(experiment, tmp_path / "run", workers=1, ray="auto")
    assert not (tmp_path / "run").exists()


SEARCH = """
import sys, json
from evoaim import Experiment, run_search
run_search(Experiment.from_dict(json.load(open(sys.argv[1]))), sys.argv[2], workers=1, ray="local")
"""


def test_ctrl_c_ends_a_ray_of_ones_own(tiny: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "experiment.json"
    spec.write_text(json.dumps({**tiny, "budget": {"candidates": 500}}))
    command = [sys.executable, "-c", SEARCH, str(spec), str(tmp_path / "run")]
    search = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "recipes" / "trial_0.yaml").exists():
        assert search.poll() is None
        time.sleep(0.1)
    everybody = search.children(recursive=True)
    assert len(everybody) > 3
    search.send_signal(signal.SIGINT)
    out, err = search.communicate(timeout=120)
    assert "KeyboardInterrupt" in err
    assert "ray" not in out.lower()
    _, alive = psutil.wait_procs(everybody, timeout=30)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "evoaim.ray_workers", raising=False)
    with pytest.raises(ConfigError, match=r"--ray needs Ray: pip install 'evoaim\[ray\]'"):
        importlib.import_module("evoaim.ray_workers")
