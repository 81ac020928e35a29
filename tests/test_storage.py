"""Storage URLs, and a study on each kind of storage: written, resumed, read, in the dashboard."""

import json
import os
import random
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import postgres
import psutil
import pytest

from evoaim import Experiment, run_search
from evoaim.dashboard import server
from evoaim.errors import ConfigError
from evoaim.ledger import NOTE_PIECE, Ledger, Trial
from evoaim.records import PublicRecords
from evoaim.results import Results
from evoaim.rows import RowRecords, tables
from evoaim.run_dir import RunDir
from evoaim.storage import open_storage, records_of
from evoaim.storage_url import caution, check_url, redacted, storage_file
from fitness.types import Estimate, Objective
from search_spaces.genes import Choice, Gene, Genome, Real, When, Whole

GENES: list[Gene] = [
    Choice("method", ("linear", "ties")),
    Real("density", 0.1, 1.0, when=When("method", ("ties",))),
    Real("rate", 1e-4, 1.0, log=True),
    Whole("layers", 1, 8),
]
OBJECTIVES = [Objective("math", "maximize", ()), Objective("loss", "minimize", ())]
GENOMES: list[Genome] = [
    {"method": "ties", "density": 0.25, "rate": 0.01, "layers": 3},
    {"method": "linear", "rate": 0.5, "layers": 8},
    {"method": "ties", "density": 1.0, "rate": 1e-4, "layers": 1},
    {"method": "linear", "rate": 1.0, "layers": 2},
]
NOTE = "ä" * (NOTE_PIECE + 5)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if postgres.binaries() is None:
        pytest.skip("no PostgreSQL on this machine")
    pytest.importorskip("psycopg")
    with pytest.MonkeyPatch.context() as patch, postgres.cluster() as url:
        patch.setenv("EVOAIM_TEST_PASSWORD", postgres.PASSWORD)
        yield url


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("database"))
    return f"{request.param}:///{tmp_path}/study"


def ledger(url: str, name: str) -> Ledger:
    return Ledger.open(url, name, OBJECTIVES, GENES, "this search")


def finished(number: int) -> Trial:
    estimates = {
        "math": Estimate(0.1 * number, 0.01, 0.2, 20),
        "loss": Estimate(float("inf") if number == 2 else 2.5, 0.5, None, 20),
        "watched": Estimate(1 / 3, 0.1, None, 7),
    }
    fate = {"raced": number == 2, "violation": 0.125 if number == 0 else 0.0}
    return Trial(number, GENOMES[number], "done", estimates, 1.25, documents=40, **fate)


def interrupted(to: Ledger) -> None:
    """Three candidates, the second of which fails, and a fourth that is under way."""
    for number in (0, 1, 2, 3):
        to.start(number, GENOMES[number])
        if number == 1:
            to.fail(1, "non-finite weights", 0.5)
        elif number < 3:
            to.note(number, NOTE)
            to.finish(finished(number))


def expected() -> list[Trial]:
    failed = Trial(1, GENOMES[1], "failed", {}, 0.5, "non-finite weights")
    return [finished(0), failed, finished(2), finished(3)]


def test_a_study_is_read_resumed_and_shown(url: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    first = ledger(url, "one")
    with first.held():
        interrupted(first)
    known = Ledger.read(url, "one").trials()
    assert known[:3] == expected()[:3]
    assert (known[3].state, known[3].genome) == ("running", GENOMES[3])
    second = ledger(url, "one")
    with second.held():
        assert second.trials() == known
        second.note(3, "new")
        second.finish(finished(3))  # under its number
    assert Ledger.read(url, "one").trials() == expected()
    run = RunDir(tmp_path / "run")
    run.open({"name": "one", "storage": url})
    assert list(Results.read(run).trials) == expected()
    detail = shown(run, "one")
    assert [t["number"] for t in detail["trials"]] == [0, 1, 2, 3]
    assert [t["note"]["body"] for t in detail["trials"]] == [NOTE, "", NOTE, "new"]
    assert detail["trials"][0]["constraints"] == [0.125, 0.0]
    assert postgres.PASSWORD not in run.experiment.read_text()


@pytest.mark.parametrize("url", ["journal", "postgresql"], indirect=True)
def test_a_search_is_run_resumed_and_shown(url: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """The same trials as in a run's own file, begun by one process and ended by two workers."""
    pytest.importorskip("optuna_dashboard")
    small = {**tiny, "name": "search", "budget": {"candidates": 12}}
    whole = run_search(Experiment.from_dict(small), tmp_path / "whole")
    half = {**small, "storage": url, "budget": {"candidates": 7}}
    run = RunDir(tmp_path / "run")
    run_search(Experiment.from_dict(half), run.path)
    found = run_search(Experiment.from_dict({**small, "storage": url}), run.path, workers=2)
    timeless = [[replace(t, seconds=0) for t in each.trials] for each in (found, whole)]
    assert timeless[0] == timeless[1]
    assert not run.study.exists()
    detail = shown(run, small["name"])
    assert [t["state"] for t in detail["trials"]] == ["Complete"] * 12
    assert "merge_method" in detail["trials"][11]["note"]["body"]


def shown(run: RunDir, name: str) -> Any:
    """What optuna-dashboard says of a study."""
    with server(run, 0) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            api = f"http://127.0.0.1:{httpd.server_port}/api/studies"
            (study,) = (s for s in get(api)["study_summaries"] if s["study_name"] == name)
            return get(f"{api}/{study['study_id']}?after=0")
        finally:
            httpd.shutdown()
            thread.join()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def untouched(url: str) -> optuna.storages.BaseStorage:
    """The storage as Optuna itself reads it."""
    if path := url.partition("journal:///")[2]:
        file = optuna.storages.journal.JournalFileBackend(path)
        return optuna.storages.JournalStorage(file)
    storage = open_storage(url)
    vars(storage).pop("_get_trials")
    return storage


def plain(url: str, name: str) -> list[dict[str, Any]]:
    """A study as Optuna itself reads it, without times and ids."""
    found = optuna.load_study(storage=untouched(url), study_name=name).get_trials()
    for t in found:
        assert t.datetime_start is not None
        assert (t.datetime_complete is None) == (t.state.name == "RUNNING")
    hidden = ("_trial_id", "_datetime_start", "datetime_complete")
    return [{k: v for k, v in vars(t).items() if k not in hidden} for t in found]


def notes(url: str, of: Ledger) -> list[Any]:
    attributes = untouched(url).get_study_system_attrs(of.study._study_id)
    assert attributes == of.storage.get_study_system_attrs(of.study._study_id)
    return [v for k, v in attributes.items() if k.startswith("dashboard:")]


def test_rows_are_what_optuna_would_have_written(url: str) -> None:
    ours, theirs = ledger(url, "ours"), ledger(url, "theirs")
    public = PublicRecords(theirs.storage, theirs.study._study_id)
    object.__setattr__(theirs, "_records", public)
    interrupted(ours)
    interrupted(theirs)
    assert plain(url, "ours") == plain(url, "theirs")
    assert notes(url, ours) == notes(url, theirs)
    assert ours.trials() == theirs.trials()
    database = not url.startswith("journal")
    assert isinstance(records_of(ours.storage, 0, url), RowRecords if database else PublicRecords)


def test_all_at_once_is_read_as_optuna_reads(url: str) -> None:
    interrupted(ledger(url, "read"))
    quick = optuna.load_study(storage=open_storage(url), study_name="read").get_trials()
    assert optuna.load_study(storage=untouched(url), study_name="read").get_trials() == quick
    cached: Any = optuna.storages.get_storage(open_storage(url))  # what the dashboard reads by
    study = optuna.load_study(storage=cached, study_name="read")
    assert len(study.trials) == 4
    again = ledger(url, "read")
    again.trials()
    again.finish(finished(3))
    again.start(4, GENOMES[0])
    assert [t.state.name for t in study.trials[3:]] == ["COMPLETE", "RUNNING"]


def test_unknown_tables_are_left_to_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoaim.rows._COLUMNS", {"TrialModel": {"trial_id", "of_the_future"}})
    url = f"sqlite:///{tmp_path}/study"
    opened = ledger(url, "one")
    assert tables(opened.storage) is None
    interrupted(opened)
    assert isinstance(opened._records, PublicRecords)
    assert Ledger.read(url, "one").trials()[:3] == expected()[:3]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se:cr@t@host/db", "postgresql://me:…@host/db"),
        ("mysql://me:secret@host:33/db?x=1", "mysql://me:…@host:33/db?x=1"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=…"),
        ("postgresql://me:$WORD@host/db", "postgresql://me:$WORD@host/db"),
        ("postgresql://me:${WORD}secret@host/db", "postgresql://me:…@host/db"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_are_neither_shown_nor_accepted(
    url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "secret")
    assert redacted(url) == shown
    if shown == url:
        check_url(url)
        return
    with pytest.raises(ConfigError, match="holds a password") as caught:
        Ledger.open(url, "one", OBJECTIVES, GENES)
    assert shown in str(caught.value)
    assert "se:cr" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_errors_never_show_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("WORD", "secret:word/1@2")
    monkeypatch.setenv("PLACE", "nowhere.invalid:port")
    for url in ("postgresql://me:$WORD@127.0.0.1:1/db", "postgresql://me:$WORD@$PLACE/db"):
        with pytest.raises(ConfigError, match="storage") as caught:
            Ledger.open(url, "one", OBJECTIVES, GENES)
        assert "secret" not in str(caught.value)


def test_unset_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOAIM_NO_SUCH", raising=False)
    with pytest.raises(ConfigError, match=r"EVOAIM_NO_SUCH of .* is not set"):
        check_url("postgresql://me:${EVOAIM_NO_SUCH}@host/db")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # importing it now raises
    monkeypatch.setenv("WORD", "secret")
    with pytest.raises(ConfigError, match=r"evoaim\[postgres\]") as caught:
        open_storage("postgresql://me:$WORD@host/db")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="MySQLdb"):
        open_storage("mysql://me@host/db")


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'study\.db' is no storage URL; allowed are sqlite"):
        open_storage("study.db")


def test_a_network_file_system_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("/", "ext4"), ("/home", "nfs4"), ("/home/local", "xfs")]
    found = [SimpleNamespace(mountpoint=m, fstype=f) for m, f in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    monkeypatch.setenv("FOLDER", "/home/me")
    assert "nfs4" in caution("journal:///$FOLDER/run/study.log")
    assert "nfs4" in caution("sqlite:////home/me/study.db")
    assert caution("sqlite:////home/local/study.db") == ""
    assert caution("sqlite:////homes/study.db") == ""
    assert caution("postgresql://home/me") == ""


def test_files_of_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", "/a")
    assert storage_file("sqlite:///$FOLDER/b.db") == Path("/a/b.db")
    assert storage_file("journal:///b.log") == Path("b.log")
    assert storage_file("postgresql://host/db") is None


@pytest.mark.parametrize("name", ["a?b.db", "what?x=1", "a%20b", "a b#c", "{x}", "ü&;b"])
def test_a_study_lies_where_its_path_says(name: str, tmp_path: Path) -> None:
    Ledger.open(f"sqlite:///{tmp_path}/{name}", "odd", OBJECTIVES, GENES)
    assert [f for f in os.listdir(tmp_path) if not f.endswith(("-wal", "-shm"))] == [name]


def test_reading_leaves_no_file_behind(tmp_path: Path) -> None:
    for kind in ("sqlite", "journal"):
        with pytest.raises(ConfigError, match="no study yet"):
            Ledger.read(f"{kind}:///{tmp_path}/study", "one")
    assert os.listdir(tmp_path) == []


def test_the_dashboard_is_hastened_but_says_the_same(tmp_path: Path) -> None:
    """Both ways of finding a front, with equal and infinite values among them."""
    pytest.importorskip("optuna_dashboard")
    from optuna_dashboard._pareto_front import get_pareto_front_trials

    objectives = [Objective(n, "maximize", ()) for n in "abc"]
    url = f"sqlite:///{tmp_path}/study"
    to = Ledger.open(url, "front", objectives, GENES)
    rng = random.Random(0)
    for number in range(60):
        to.start(number, GENOMES[0])
        drawn = [float("inf") if rng.random() < 0.02 else rng.randint(0, 6) for _ in "abc"]
        estimates = {n: Estimate(float(v), 0.1) for n, v in zip("abc", drawn, strict=True)}
        to.finish(Trial(number, GENOMES[0], "done", estimates))
    run = RunDir(tmp_path / "run")
    run.open({"name": "front", "storage": url})
    best = [t["number"] for t in shown(run, "front")["best_trials"]]
    slow = get_pareto_front_trials(to.study.get_trials(), to.study.directions)
    assert best == [t.number for t in slow]
    assert len(best) < 60
