"""The only memory of a search: one Optuna study, one trial a candidate, one writer."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import optuna
import sqlalchemy
from optuna.trial import TrialState

from evoaim.errors import ConfigError
from evoaim.optimizers._optuna import distribution
from fitness.types import Estimate, Goal, Objective
from search_spaces.genes import Gene, Genome

State = Literal["running", "done", "failed"]
SCORES = "scores"  # user attribute: standard errors, seconds, documents
NOTE_PIECE = 2045  # characters that every storage can hold in one attribute
IDENTITY = "identity"  # user attribute of the study
REASON = "reason"  # user attribute of failed trials
CONSTRAINTS = "constraints"  # system attribute that Optuna and its dashboard read; feasible at <= 0
_STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
}


@dataclass(frozen=True)
class Trial:
    """One recorded candidate."""

    number: int
    genome: Genome
    state: State
    estimates: Mapping[str, Estimate]  # by objective name; empty unless done
    seconds: float = 0.0
    reason: str = ""
    raced: bool = False  # dropped before all of its documents were run
    violation: float = 0.0  # of the constraints; 0: feasible
    documents: int = 0  # that were run

    @property
    def eligible(self) -> bool:
        """Whether it may stand in a front."""
        return self.state == "done" and not self.raced and self.violation <= 0


@dataclass(frozen=True)
class Ledger:
    """The study of one search: a candidate is started, then finished or failed; never undone."""

    study: optuna.Study
    storage: optuna.storages.BaseStorage  # written without Study's reads between the writes
    objectives: tuple[Objective, ...]
    distributions: Mapping[str, Any]
    _ids: dict[int, int] = field(default_factory=dict, repr=False)  # trial number -> storage id

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        objectives: Sequence[Objective],
        genes: Sequence[Gene],
        identity: str = "",
    ) -> "Ledger":
        """Create the study, or open the one of that name if it is this search's.

        Args:
            url: of the storage, see `_storage`.
            name: of the study.
            objectives: one value of a trial each.
            genes: parameters of a trial.
            identity: digest of all that recorded trials depend on.

        Raises:
            ConfigError: the storage cannot be opened, or the study is another search's.
        """
        names = [o.name for o in objectives]
        directions = [o.goal for o in objectives]
        try:
            with _quiet():
                storage = _storage(url)
                study = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    directions=directions,
                    load_if_exists=True,
                )
                known = study.metric_names
                if known is None:
                    study.set_metric_names(names)
                    study.set_user_attr(IDENTITY, identity)
                theirs = study.user_attrs.get(IDENTITY, identity)
        except (
            Exception
        ) as error:  # SQLAlchemy, drivers and the file system raise types of their own
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"storage: the study cannot be opened ({reason})") from error
        goals = [d.name.lower() for d in study.directions]
        if (known is not None and known != names) or goals != directions:
            raise ConfigError(
                f"storage: the study '{name}' has the objectives {known} ({', '.join(goals)}), the "
                f"experiment {names}; use another name or run directory"
            )
        if theirs != identity:
            raise ConfigError(
                f"storage: the study '{name}' was made by another experiment, or by this one with "
                "other models or tasks; use another name or storage"
            )
        return cls(study, storage, tuple(objectives), {g.name: distribution(g) for g in genes})

    @classmethod
    def read(cls, url: str, name: str) -> "Ledger":
        """Open an existing study for reading; objectives and genes come from the study itself.

        Raises:
            ConfigError: there is no such study.
        """
        path = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and not path.is_file():
            raise ConfigError(f"'{path}': no study yet; `evoaim search` starts one")
        try:
            with _quiet():
                storage = _storage(url)
                study = optuna.load_study(storage=storage, study_name=name)
        except KeyError:
            raise ConfigError(f"storage: there is no study '{name}'") from None
        names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
        goals = [cast(Goal, d.name.lower()) for d in study.directions]
        objectives = tuple(Objective(n, g, ()) for n, g in zip(names, goals, strict=True))
        trials = study.get_trials(deepcopy=False)
        genes = {g: d for t in trials for g, d in t.distributions.items()}
        return cls(study, storage, objectives, genes)

    def trials(self) -> list[Trial]:
        """All trials in the order they were started."""
        found = self.storage.get_all_trials(self._study_id, deepcopy=False)
        self._ids.update({t.number: t._trial_id for t in found})
        return [self._read(t) for t in sorted(found, key=lambda t: t.number)]

    def start(self, number: int, genome: Genome) -> None:
        """Record that a candidate is being evaluated.

        Raises:
            ConfigError: somebody else has added trials to the study.
        """
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(genome),
            distributions={n: self.distributions[n] for n in genome},
        )
        self._ids[number] = self.storage.create_new_trial(self._study_id, trial)
        recorded = self.storage.get_trial(self._ids[number]).number
        if recorded != number:
            raise ConfigError(
                f"storage: the study numbers a new trial {recorded} where the search expects "
                f"{number}; does another process write to it?"
            )

    def finish(self, trial: Trial) -> None:
        """Record a candidate's estimates, and as Optuna's constraint whether it is feasible."""
        scores: dict[str, Any] = {"seconds": round(trial.seconds, 4), "raced": trial.raced}
        scores["run"] = trial.documents
        for field_name in ("value", "stderr", "rank_value", "documents"):
            scores[field_name] = {n: getattr(e, field_name) for n, e in trial.estimates.items()}
        self._set(trial.number, SCORES, scores)
        if trial.violation > 0 or trial.raced:
            bounds = [trial.violation, float(trial.raced)]
            self.storage.set_trial_system_attr(self._ids[trial.number], CONSTRAINTS, bounds)
        values = [trial.estimates[o.name].value for o in self.objectives]
        self.storage.set_trial_state_values(self._ids[trial.number], TrialState.COMPLETE, values)

    def fail(self, number: int, reason: str, seconds: float) -> None:
        """Record why a candidate could not be evaluated."""
        self._set(number, SCORES, {"seconds": round(seconds, 4)})
        self._set(number, REASON, reason)
        self.storage.set_trial_state_values(self._ids[number], TrialState.FAIL)

    def note(self, number: int, text: str) -> None:
        """Attach a Markdown note that optuna-dashboard shows beside the trial.

        Written in optuna-dashboard's own format: its `save_note` reads every note of the study
        before it writes one, and importing it takes longer than a small search.
        """
        key = f"dashboard:{self._ids[number]}"
        pieces = [text[i : i + NOTE_PIECE] for i in range(0, len(text), NOTE_PIECE)]
        for i, piece in enumerate(pieces):
            self.storage.set_study_system_attr(self._study_id, f"{key}:note_str:{i}", piece)
        self.storage.set_study_system_attr(self._study_id, f"{key}:note_ver", 1)

    @property
    def _study_id(self) -> int:
        return self.study._study_id

    def _set(self, number: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._ids[number], key, value)

    def _read(self, trial: optuna.trial.FrozenTrial) -> Trial:
        state = _STATES.get(trial.state, "failed")
        scores = trial.user_attrs.get(SCORES, {})
        estimates = {}
        if state == "done":
            pairs = zip(self.objectives, trial.values, strict=True)
            values = {**scores.get("value", {}), **{o.name: v for o, v in pairs}}
            estimates = {
                name: Estimate(
                    value,
                    scores.get("stderr", {}).get(name, 0.0),
                    scores.get("rank_value", {}).get(name),
                    scores.get("documents", {}).get(name, 0),
                )
                for name, value in values.items()
            }
        bounds = trial.system_attrs.get(CONSTRAINTS, [0.0])
        return Trial(
            trial.number,
            {n: trial.params[n] for n in self.distributions if n in trial.params},
            state,
            estimates,
            float(scores.get("seconds", 0.0)),
            str(trial.user_attrs.get(REASON, "")),
            bool(scores.get("raced", False)),
            float(bounds[0]),
            int(scores.get("run", 0)),
        )


def sqlite_url(path: Path) -> str:
    """The storage URL of a SQLite file."""
    return f"sqlite:///{path}"


def _storage(url: str) -> Any:
    """An Optuna storage: `journal:///path` is a journal file, everything else a database URL.

    `$NAME` and `${NAME}` stand for environment variables, so that no password lies in a file.

    SQLite writes ahead and syncs at checkpoints, so that a commit does not wait for the disk: a
    killed process loses nothing, a power cut at most the last trials, which are evaluated again.
    """
    url = os.path.expandvars(url)
    if url.startswith("journal:///"):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(url.removeprefix("journal:///")))
    storage = optuna.storages.RDBStorage(url)
    if url.startswith("sqlite"):
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # connections opened before
    return storage


def _write_ahead(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without a log line a trial and without experimental warnings; restored afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
