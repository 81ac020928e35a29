"""Worker processes: the same trials as one process, whoever dies on the way, and no copies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from test_memory import random_family

from evoaim import Experiment, run_search
from evoaim.crew import Crew
from evoaim.errors import ConfigError
from evoaim.processes import Processes
from evoaim.results import Results
from evoaim.run_dir import RunDir
from evoaim.scoring import alone
from evoaim.snapshot import Snapshot
from evoaim.work import ATTEMPTS, Job
from fitness.types import Panel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
MIB = 1 << 20


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


def front(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "front.json").read_text())
    return [{**entry, "recipe": None} for entry in found]


class Killer:
    """Kills a worker with signal 9 in the midst of a candidate, every few candidates."""

    def __init__(self, after: tuple[int, ...]) -> None:
        self.after = after
        self.killed = 0

    def stage(self, text: str) -> None:
        pass

    def candidate(self, snapshot: Snapshot) -> None:
        if self.killed < len(self.after) and snapshot.done >= self.after[self.killed]:
            os.kill(workers()[0].pid, signal.SIGKILL)
            self.killed += 1


def workers() -> list[psutil.Process]:
    """The workers' processes; the only child is the one that they come from."""
    return [w for child in psutil.Process().children() for w in child.children()]


def test_two_workers_find_what_one_finds_also_if_they_are_killed(
    zoo_search: dict[str, Any], tmp_path: Path
) -> None:
    experiment = Experiment.from_dict(zoo_search)
    run_search(experiment, tmp_path / "one")
    killer = Killer(after=(3, 11))
    run_search(experiment, tmp_path / "two", killer, workers=2)
    assert killer.killed == 2
    assert trials(tmp_path / "two") == trials(tmp_path / "one")
    assert front(tmp_path / "two") == front(tmp_path / "one")
    assert len({t[5] for t in trials(tmp_path / "one")}) == 2, "some were raced out, some not"  # type: ignore[index]


def test_a_search_goes_on_with_another_number_of_workers(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    whole = Experiment.from_dict(tiny)
    run_search(whole, tmp_path / "one")
    half = Experiment.from_dict({**tiny, "budget": {"candidates": 9}})
    run_search(half, tmp_path / "two", workers=3)
    run_search(whole, tmp_path / "two", workers=2)
    assert trials(tmp_path / "two") == trials(tmp_path / "one")


def test_a_model_that_is_not_there_is_refused_and_leaves_nobody(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    models = {**tiny["models"], "experts": {"a": str(tmp_path / "none")}}
    experiment = Experiment.from_dict({**tiny, "models": models})
    with pytest.raises(ConfigError, match="none"):
        run_search(experiment, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()
    assert psutil.Process().children() == []


def hired(tiny: dict[str, Any], run: Path, minutes: float | None = None) -> tuple[Crew[Any], Job]:
    """One worker, ready, and a job for it."""
    budget = {"candidates": 1, "candidate_minutes": minutes}
    experiment = Experiment.from_dict({**tiny, "budget": budget})
    crew = Processes.start(experiment, 1)
    crew.prepare(RunDir(run))
    panel = Panel({"one": tuple(range(40))})
    return crew, Job(alone(experiment.models.base), "search", (panel,))


def test_a_candidate_whose_workers_all_die_fails_with_the_reason(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    crew, job = hired(tiny, tmp_path)

    def kill_all() -> None:
        """Each as soon as it has the job."""
        seen: set[int] = set()
        while len(seen) < ATTEMPTS:
            (place,) = crew._places
            if place.ticket is not None and place.hand.pid not in seen:
                seen.add(place.hand.pid)
                os.kill(place.hand.pid, signal.SIGKILL)
            time.sleep(0.001)

    killer = threading.Thread(target=kill_all, daemon=True)
    killer.start()
    try:
        crew.submit(7, job)
        ticket, answer = crew.answer()
        killer.join(60)
        assert ticket == 7
        assert answer.reason == "lost 3 workers, the last one was killed (signal 9; out of memory?)"
        crew.submit(8, job)  # there is another worker for the next one
        ticket, answer = crew.answer()
        assert ticket == 8
        assert answer.given()["one/acc"].documents
    finally:
        crew.close()
    assert psutil.Process().children() == []


def test_a_candidate_that_takes_too_long_fails_with_the_reason(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    crew, job = hired(tiny, tmp_path, minutes=1e-6)
    try:
        crew.submit(0, job)
        assert "took longer than budget.candidate_minutes, 1e-06" in crew.answer()[1].reason
    finally:
        crew.close()


SEARCH = """
import sys, json
from evoaim import Experiment, run_search
import torch
x = torch.ones(512, 512)
if sys.argv[3] == "computed":
    torch.set_num_threads(2)
    x @ x  # OpenMP has threads now, which no fork has
run_search(Experiment.from_dict(json.load(open(sys.argv[1]))), sys.argv[2], workers=2)
"""


@pytest.mark.parametrize("before", ["nothing", "computed"])
def test_whatever_the_process_has_done_before(
    tiny: dict[str, Any], tmp_path: Path, before: str
) -> None:
    spec = tmp_path / "experiment.json"
    spec.write_text(json.dumps({**tiny, "budget": {"candidates": 4}}))
    command = [sys.executable, "-c", SEARCH, str(spec), str(tmp_path / "run"), before]
    subprocess.run(command, check=True, timeout=300)
    assert len(trials(tmp_path / "run")) == 4


def pss(process: psutil.Process) -> int:
    """Bytes of a process, those that n processes share divided by n."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return 1024 * int(next(x for x in text.splitlines() if x.startswith("Pss:")).split()[1])


def test_two_workers_hold_the_experts_once(
    tiny: dict[str, Any], family: dict[str, str], tmp_path: Path
) -> None:
    """At most one copy of base and experts, two live models, and 1 GiB for everything else.

    Models of 114 MiB, so that not even one more live model would fit; small batches, whose logits
    would be most of the rest.
    """
    models = random_family(tmp_path / "large", torch.float32, layers=8)
    for name in ("base", "a", "b", "c"):
        for file in Path(family["base"]).glob("*token*"):
            shutil.copy(file, models / name)
    experts = {n: str(models / n) for n in "abc"}
    named = {**tiny["models"], "base": str(models / "base"), "experts": experts}
    fitness = {**tiny["fitness"], "batch_size": 8}
    spec = tmp_path / "experiment.json"
    spec.write_text(
        json.dumps({**tiny, "models": named, "fitness": fitness, "budget": {"candidates": 60}})
    )
    one = sum(f.stat().st_size for f in (models / "base").glob("*.safetensors"))
    assert one > 110 * MIB
    search = start(spec, tmp_path / "run")
    try:
        wait_for(search, tmp_path / "run" / "recipes" / "trial_12.yaml")
        total = sum(map(pss, [search, *search.children(recursive=True)]))
    finally:
        search.kill()
        search.wait()
    assert total > (4 + 2) * one, "what is held is seen"
    assert total < (4 + 2) * one + 1024 * MIB


def start(spec: Path, run: Path) -> psutil.Popen:
    return psutil.Popen([sys.executable, "-c", SEARCH, str(spec), str(run), "nothing"])


def wait_for(search: psutil.Popen, file: Path) -> None:
    while not file.exists():
        assert search.poll() is None
        time.sleep(0.05)


def test_the_workers_end_with_the_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "experiment.json"
    spec.write_text(json.dumps({**tiny, "budget": {"candidates": 500}}))
    search = start(spec, tmp_path / "run")
    wait_for(search, tmp_path / "run" / "recipes" / "trial_6.yaml")
    everybody = search.children(recursive=True)
    assert len(everybody) == 3
    search.kill()
    _, alive = psutil.wait_procs(everybody, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    search.wait()
