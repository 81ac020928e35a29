"""optuna-dashboard on a run's study, served to this machine only."""

import webbrowser
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from evoaim.errors import ConfigError
from evoaim.ledger import Ledger, sqlite_url
from evoaim.report.note import trial_note
from evoaim.run_dir import RunDir
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
    application: WSGIApplication = wsgi(ledger.storage)
    return application


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
