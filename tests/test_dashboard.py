"""optuna-dashboard serves a run's study, named and noted, to this machine only."""

import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Plan, ledger_of, make_run

from evoaim.dashboard import complete, serve, server
from evoaim.errors import ConfigError
from evoaim.run_dir import RunDir

pytest.importorskip("optuna_dashboard")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose search had no dashboard installed: its trials have no notes."""
    return make_run(tmp_path_factory.mktemp("run"), Plan(trials=6, failed=(2,), storage="sqlite"))


@pytest.fixture(scope="module")
def address(run: RunDir) -> Iterator[str]:
    with server(run, 0) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def get(url: str, host: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_study_is_served_with_named_objectives_and_notes(run: RunDir, address: str) -> None:
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    assert (study["study_name"], study["directions"]) == ("quickstart", ["maximize"] * 2)
    detail = get(f"{address}/api/studies/{study['study_id']}?after=0")
    assert detail["objective_names"] == ["math", "italian"]
    assert len(detail["trials"]) == 6
    for trial in detail["trials"]:
        done = trial["state"] == "Complete"
        recipe = run.recipe(trial["number"])
        assert done == recipe.is_file()
        assert not done or recipe.read_text().rstrip() in trial["note"]["body"]
        assert done or trial["note"]["body"] == ""


def test_existing_notes_are_left_alone(run: RunDir, address: str) -> None:
    ledger = ledger_of(run)
    ledger.trials()
    ledger.note(0, "mine")
    complete(run, ledger)
    detail = get(f"{address}/api/studies/1?after=0")
    assert detail["trials"][0]["note"]["body"] == "mine"


def test_page_of_another_host_is_refused(address: str) -> None:
    port = address.rpartition(":")[2]
    assert get(f"{address}/api/studies", f"localhost:{port}")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(f"{address}/api/studies", f"evil.example:{port}")


def test_address_is_announced_once_it_listens(run: RunDir) -> None:
    def announce(url: str) -> None:
        assert url.startswith("http://127.0.0.1:")
        raise KeyboardInterrupt  # as the user would

    with pytest.raises(KeyboardInterrupt):
        serve(run, 0, announce)


def test_port_in_use_is_a_user_error(run: RunDir, address: str) -> None:
    port = int(address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"--port {port}: cannot be used"):
        server(run, port)
    with pytest.raises(ConfigError, match="--port 70000"):
        server(run, 70000)


def test_absent_extra_is_a_user_error(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)  # importing it now raises
    with pytest.raises(ConfigError, match=r"pip install 'evoaim\[dashboard\]'"):
        server(run, 0)


def test_run_without_a_study_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError, match="no study yet"):
        server(RunDir(tmp_path), 0)
