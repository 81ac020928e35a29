"""The only memory of a search: one Optuna study, one trial a candidate, one writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from evoaim.errors import ConfigError
from evoaim.lease import Lease
from evoaim.optimizers._optuna import distribution
from evoaim.records import End, Records
from evoaim.storage import explained, open_storage, quiet, records_of
from evoaim.storage_url import check_url, sqlite_url, storage_file
from fitness.types import Estimate, Goal, Objective
from search_spaces.genes import Gene, Genome

__all__ = ["Ledger", "Trial", "sqlite_url"]

State = Literal["running", "done", "failed"]
SCORES = "scores"  # user attribute: standard errors, seconds, documents
NOTE_PIECE = 10_000  # characters that every storage can hold in one attribute, even escaped
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
    storage: optuna.storages.BaseStorage
    objectives: tuple[Objective, ...]
    distributions: dict[str, BaseDistribution]  # of the genes; if only read, `trials` finds them
    _records: Records = field(repr=False)
    _lease: Lease = field(repr=False)
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
            url: of the storage, see `open_storage`.
            name: of the study.
            objectives: one value of a trial each.
            genes: parameters of a trial.
            identity: digest of all that recorded trials depend on.

        Raises:
            ConfigError: the storage cannot be opened, or the study is another search's.
        """
        names = [o.name for o in objectives]
        directions = [o.goal for o in objectives]
        check_url(url)
        storage = open_storage(url)
        with explained(), quiet():
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
            known = study.metric_names
            if known is None:
                study.set_user_attr(IDENTITY, identity)  # before what says that all is there
                study.set_metric_names(names)
            theirs = study.user_attrs.get(IDENTITY, identity)
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
        return cls._of(url, study, storage, objectives, {g.name: distribution(g) for g in genes})

    @classmethod
    def read(cls, url: str, name: str) -> "Ledger":
        """Open an existing study for reading; objectives come from the study itself.

        Raises:
            ConfigError: there is no such study.
        """
        path = storage_file(url)
        if path is not None and not path.is_file():
            raise ConfigError(f"'{path}': no study yet; `evoaim search` starts one")
        storage = open_storage(url)
        try:
            with explained(), quiet():
                study = optuna.load_study(storage=storage, study_name=name)
        except KeyError:
            raise ConfigError(f"storage: there is no study '{name}'") from None
        names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
        goals = [cast(Goal, d.name.lower()) for d in study.directions]
        objectives = [Objective(n, g, ()) for n, g in zip(names, goals, strict=True)]
        return cls._of(url, study, storage, objectives, {})

    @classmethod
    def _of(
        cls,
        url: str,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        objectives: Sequence[Objective],
        distributions: dict[str, BaseDistribution],
    ) -> "Ledger":
        records = records_of(storage, study._study_id, url)
        lease = Lease(records, study.study_name)
        return cls(study, storage, tuple(objectives), distributions, records, lease)

    def held(self) -> Lease:
        """A context within which no other process may write the study; read it within, too.

        Entering it raises ConfigError while another process holds the study. So does every write
        within once somebody has taken it over, which takes a minute and a half without a sign of
        life from this process, or its end.
        """
        return self._lease

    def trials(self) -> list[Trial]:
        """All trials in the order they were started."""
        with explained():
            found = self.storage.get_all_trials(self.study._study_id, deepcopy=False)
        self._ids.update({t.number: t._trial_id for t in found})
        if not self.distributions:
            self.distributions.update({n: d for t in found for n, d in t.distributions.items()})
        return [self._read(t) for t in sorted(found, key=lambda t: t.number)]

    def start(self, number: int, genome: Genome) -> None:
        """Record that a candidate is being evaluated.

        Raises:
            ConfigError: somebody else has added trials to the study.
        """
        self._lease.check()
        if not self.distributions:
            self.trials()
        with explained():
            self._ids[number] = self._records.start(number, genome, self.distributions)

    def finish(self, trial: Trial) -> None:
        """Record a candidate's estimates, and as Optuna's constraint whether it is feasible.

        Raises:
            ConfigError: somebody else has ended it.
        """
        scores: dict[str, Any] = {"seconds": round(trial.seconds, 4), "raced": trial.raced}
        scores["run"] = trial.documents
        for field_name in ("value", "stderr", "rank_value", "documents"):
            scores[field_name] = {n: getattr(e, field_name) for n, e in trial.estimates.items()}
        broken = trial.violation > 0 or trial.raced
        bounds = {CONSTRAINTS: [trial.violation, float(trial.raced)]} if broken else {}
        values = tuple(trial.estimates[o.name].value for o in self.objectives)
        self._end(trial.number, End(TrialState.COMPLETE, values, {SCORES: scores}, bounds))

    def fail(self, number: int, reason: str, seconds: float) -> None:
        """Record why a candidate could not be evaluated.

        Raises:
            ConfigError: somebody else has ended it.
        """
        known = {SCORES: {"seconds": round(seconds, 4)}, REASON: reason}
        self._end(number, End(TrialState.FAIL, None, known, {}))

    def note(self, number: int, text: str) -> None:
        """Attach a Markdown note that optuna-dashboard shows beside the trial.

        Written in optuna-dashboard's own format: its `save_note` reads every note of the study
        before it writes one, and importing it takes longer than a small search.
        """
        self._lease.check()
        key = f"dashboard:{self._ids[number]}"
        pieces = range(0, len(text), NOTE_PIECE)
        note: dict[str, Any] = {
            f"{key}:note_str:{i}": text[at : at + NOTE_PIECE] for i, at in enumerate(pieces)
        }
        with explained():
            self._records.note({**note, f"{key}:note_ver": 1})

    def _end(self, number: int, end: End) -> None:
        self._lease.check()
        with explained():
            self._records.finish(self._ids[number], end)

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
            {n: trial.params[n] for n in self.distributions or trial.params if n in trial.params},
            state,
            estimates,
            float(scores.get("seconds", 0.0)),
            str(trial.user_attrs.get(REASON, "")),
            bool(scores.get("raced", False)),
            float(bounds[0]),
            int(scores.get("run", 0)),
        )
