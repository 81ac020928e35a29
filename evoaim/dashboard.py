"""optuna-dashboard on a run's study, served to this machine only."""

import webbrowser
from collections.abc import Callable, Iterable, Sequence
from itertools import count, takewhile
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import optuna

from evoaim.errors import ConfigError
from evoaim.front import nondominated
from evoaim.ledger import Ledger
from evoaim.report.note import trial_note
from evoaim.run_dir import RunDir
from evoaim.storage_url import sqlite_url
from search_spaces import strict_yaml

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"  # the dashboard has no login, and its buttons delete studies


def serve(run: RunDir, port: int, announce: Callable[[str], Any] = webbrowser.open) -> None:
    """Serve the dashboard until interrupted; `announce` is called with its address when it is up.

    Raises:
        ConfigError: the `dashboard` extra is not installed, the port cannot be used, no study yet.
    """
    with server(run, port) as httpd:
        announce(f"http://{HOST}:{httpd.server_port}/")
        httpd.serve_forever()


def server(run: RunDir, port: int) -> WSGIServer:
    """A server that listens but does not answer yet; port 0: any free one.

    Raises:
        ConfigError: as `serve`.
    """
    ledger = _ledger(run)
    application = _local(_application(ledger))
    complete(run, ledger)
    try:
        return make_server(HOST, port, application, _Server, _Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--port {port}: cannot be used ({error}); give another, such as --port {port + 1}"
        ) from None


def complete(run: RunDir, ledger: Ledger) -> None:
    """Name the objectives of the study and note what is known of its trials, where not yet done."""
    from optuna_dashboard._note import note_ver_key

    if ledger.study.metric_names is None:
        ledger.study.set_metric_names([o.name for o in ledger.objectives])
    noted = ledger.storage.get_study_system_attrs(ledger.study._study_id)
    ids = {t.number: t._trial_id for t in ledger.study.get_trials(deepcopy=False)}
    for trial in ledger.trials():
        if trial.state == "done" and note_ver_key(ids[trial.number]) not in noted:
            path = run.recipe(trial.number)
            recipe = path.read_text(encoding="utf-8") if path.is_file() else ""
            fate = trial.raced, trial.violation
            note = trial_note(recipe, trial.estimates, ledger.objectives, *fate)
            ledger.note(trial.number, note)


def _ledger(run: RunDir) -> Ledger:
    experiment = strict_yaml.read(run.experiment)
    return Ledger.read(experiment.get("storage") or sqlite_url(run.study), experiment["name"])


def _application(ledger: Ledger) -> "WSGIApplication":
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"evoaim dashboard: the module '{error.name}' is not installed; "
            "it comes with the extra: pip install 'evoaim[dashboard]'"
        ) from None
    _hasten()
    # it reads all trials for every page; this reads finished ones once
    application: WSGIApplication = wsgi(optuna.storages.get_storage(ledger.storage))
    return application


def _hasten() -> None:
    """Let optuna-dashboard look notes and files up by their keys, and find fronts by arrays.

    It goes through all attributes of the study for every trial, and compares all trials with each
    other: minutes for thousands of them. The names are private to it; where they have changed, it
    stays as slow as it is.
    """
    from optuna_dashboard import _app, _note, _serializer

    search_files = getattr(_serializer, "list_trial_artifacts", None)
    if not hasattr(_note, "get_note_from_system_attrs") or search_files is None:
        return

    def note(attributes: dict[str, Any], trial_id: int | None) -> dict[str, Any]:
        version = int(attributes.get(_note.note_ver_key(trial_id), 0))
        stem = _note.note_str_key_prefix(trial_id)
        keys = takewhile(attributes.__contains__, (f"{stem}{i}" for i in count()))
        return {"version": version, "body": "".join(attributes[k] for k in keys if version)}

    def files(_study: dict[str, Any], own: dict[str, Any], trial: Any) -> Any:
        # those among the study's attributes are of versions before there was evoaim
        return search_files({}, own, trial)

    def front(trials: Sequence[Any], directions: Sequence[Any]) -> list[Any]:
        done = [t for t in trials if t.state.name == "COMPLETE"]
        if not done:
            return []
        signs = [-1.0 if d.name == "MAXIMIZE" else 1.0 for d in directions]
        rows = np.nan_to_num(np.array([t.values for t in done]) * signs)  # infinite ones, too
        different, which = np.unique(rows, axis=0, return_inverse=True)
        kept = nondominated(different)[which.ravel()]  # equal trials are all on it
        return [t for t, keep in zip(done, kept, strict=True) if keep]

    _note.get_note_from_system_attrs = note
    if hasattr(_app, "get_pareto_front_trials"):
        _app.get_pareto_front_trials = front
    if not getattr(search_files, "quick", False):
        files.quick = True  # type: ignore[attr-defined]
        _serializer.list_trial_artifacts = files


def _local(application: "WSGIApplication") -> "WSGIApplication":
    """Refuse requests under another host name: a web page elsewhere could point its own here."""

    def guarded(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        # any port, because a tunnel may end at another one
        if environ.get("HTTP_HOST", "").partition(":")[0] in (HOST, "localhost"):
            return application(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"This server answers requests from its own machine only.\n"]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Without a line on stderr for every request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
