"""The ledger refuses a second writer, by its numbers and by its lease, and reads older studies."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from evoaim.errors import ConfigError
from evoaim.lease import KEY, VALIDITY, Holder
from evoaim.ledger import Ledger, Trial
from fitness.types import Estimate, Objective
from search_spaces.genes import Gene, Real

GENES: list[Gene] = [Real("weight", 0.0, 1.0)]
OBJECTIVES = [Objective("math", "maximize", ())]
DONE = Trial(0, {"weight": 0.5}, "done", {"math": Estimate(0.5, 0.1)}, 1.0)


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:///{tmp_path}/study"


def ledger(url: str) -> Ledger:
    return Ledger.open(url, "one", OBJECTIVES, GENES)


@pytest.fixture
def holder() -> Holder:
    """Of another machine, with time left."""
    here = Holder.here()
    return replace(here, owner="other", host="elsewhere", until=time.time() + VALIDITY)


def stored(of: Ledger) -> Any:
    return of.storage.get_study_user_attrs(of.study._study_id)[KEY]


def put(to: Ledger, holder: Holder) -> None:
    to.storage.set_study_user_attr(to.study._study_id, KEY, asdict(holder))


def test_trials_of_others_are_noticed(url: str) -> None:
    one, two = ledger(url), ledger(url)
    one.start(0, DONE.genome)
    with pytest.raises(ConfigError, match="numbers a new trial 1 where the search expects 0"):
        two.start(0, DONE.genome)


def test_a_trial_ends_once(url: str) -> None:
    one, two = ledger(url), ledger(url)
    one.start(0, DONE.genome)
    two.trials()
    one.finish(DONE)
    with pytest.raises(ConfigError, match="already ended"):
        two.finish(DONE)
    with pytest.raises(ConfigError, match="already ended"):
        two.fail(0, "late", 1.0)
    assert Ledger.read(url, "one").trials() == [DONE]


def test_one_holds_a_study_at_a_time(url: str) -> None:
    one, two = ledger(url), ledger(url)
    for _ in range(2):
        with one.held():
            one.start(len(one.trials()), DONE.genome)
            who = rf"process {os.getpid()} on {platform.node()} \(lease until \d\d:\d\d:\d\d\)"
            with pytest.raises(ConfigError, match=who), two.held():
                raise AssertionError("two writers")
        with two.held():
            two.start(len(two.trials()), DONE.genome)
    assert len(one.trials()) == 4


def test_a_lease_elsewhere_is_respected_until_it_runs_out(url: str, holder: Holder) -> None:
    one = ledger(url)
    put(one, holder)
    with pytest.raises(ConfigError, match="on elsewhere"), one.held():
        raise AssertionError("two writers")
    put(one, replace(holder, until=time.time() - 1))
    with one.held():
        assert stored(one)["until"] > time.time() + VALIDITY / 2
    assert stored(one)["until"] == 0


def test_the_lease_of_a_process_that_has_ended_here_is_taken_at_once(
    url: str, holder: Holder
) -> None:
    here = Holder.here()
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = replace(here, owner="other", pid=ended.pid, until=holder.until)
    another = replace(here, owner="other", started=here.started - 600, until=holder.until)
    for dead in (gone, another):  # of the latter another process has the id
        one = ledger(url)
        put(one, dead)
        with one.held():
            assert stored(one)["pid"] == os.getpid()
    container = replace(gone, system="another boot or container")
    assert not container.gone()


def test_who_was_taken_over_stops(url: str, holder: Holder) -> None:
    one = ledger(url)
    with one.held() as _:
        one.start(0, DONE.genome)
        put(one, holder)
        with pytest.raises(ConfigError, match=r"taken over by process .* on elsewhere"):
            one.held().renew()
        for write in (
            lambda: one.start(1, DONE.genome),
            lambda: one.note(0, "text"),
            lambda: one.finish(DONE),
            lambda: one.fail(0, "reason", 1.0),
        ):
            with pytest.raises(ConfigError, match="taken over"):
                write()
    assert stored(one) == asdict(holder), "left as it is"
    (trial,) = one.trials()
    assert trial.state == "running"


def test_a_lease_is_renewed_even_if_an_earlier_answer_was_lost(url: str) -> None:
    one = ledger(url)
    with one.held():
        ours = Holder(**stored(one))
        put(one, replace(ours, until=ours.until - 1))
        one.held().renew()
        assert stored(one)["owner"] == ours.owner
        assert stored(one)["until"] >= ours.until


@pytest.fixture
def killed(url: str) -> Iterator[int]:
    """A process that held the study, and began a candidate, when it was killed."""
    program = f"""
from evoaim.ledger import Ledger
from fitness.types import Objective
from search_spaces.genes import Real
ledger = Ledger.open({url!r}, "one", [Objective("math", "maximize", ())], [Real("weight", 0, 1)])
with ledger.held():
    ledger.start(0, {{"weight": 0.5}})
    print(flush=True)
    input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigError, match=f"process {process.pid}"), ledger(url).held():
            raise AssertionError("two writers")
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield process.pid


def test_a_killed_search_is_taken_over_at_once(url: str, killed: int) -> None:
    one = ledger(url)
    with one.held():
        (trial,) = one.trials()
        assert trial.state == "running"
        one.finish(DONE)
    assert Ledger.read(url, "one").trials() == [DONE]


def test_studies_of_earlier_versions_are_read(url: str) -> None:
    ledger(url)
    kind, _, path = url.partition(":///")
    file = optuna.storages.journal.JournalFileBackend(path) if kind == "journal" else None
    storage = optuna.storages.JournalStorage(file) if file else optuna.storages.RDBStorage(url)
    template = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params={"weight": 0.5},
        distributions={"weight": optuna.distributions.FloatDistribution(0.0, 1.0)},
    )
    study = storage.get_study_id_from_name("one")
    for _ in range(2):
        trial = storage.create_new_trial(study, template)
        scores = {"seconds": 1.0, "stderr": {"math": 0.1}}
        storage.set_trial_user_attr(trial, "scores", scores)
    storage.set_trial_system_attr(trial, "constraints", [0.25])
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    running, done = ledger(url).trials()
    assert done == replace(DONE, number=1, violation=0.25)
    assert (running.state, running.genome) == ("running", DONE.genome)
    again = ledger(url)
    again.trials()
    again.finish(DONE)  # over what an interrupted attempt had written
    assert again.trials()[0] == DONE
