"""How a study is written: the contract, and the way that Optuna's public interface offers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from evoaim.errors import ConfigError
from search_spaces.genes import Genome


@dataclass(frozen=True)
class End:
    """How a trial ends, in Optuna's terms."""

    state: TrialState
    values: tuple[float, ...] | None  # None: failed
    user: Mapping[str, Any]  # attributes
    system: Mapping[str, Any]


class Records(Protocol):
    """Writes one study; every call is on disk, whole, when it returns."""

    def start(
        self, number: int, genome: Genome, distributions: Mapping[str, BaseDistribution]
    ) -> int:
        """Add a running trial; its id in the storage.

        Raises:
            ConfigError: the study does not give it that number.
        """
        ...

    def finish(self, trial_id: int, end: End) -> None:
        """End a running trial.

        Raises:
            ConfigError: it has ended before.
        """
        ...

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Set system attributes of the study."""
        ...

    def attribute(self, key: str) -> Any:
        """A user attribute of the study; None if it is not set."""
        ...

    def swap(self, key: str, old: Any, new: Any) -> bool:
        """Set a user attribute of the study if it is still `old`; whether it was."""
        ...


@dataclass(frozen=True)
class PublicRecords:
    """Through Optuna's interface, one write after the other.

    `start` and `swap` are one step only for those who take the same `lock`.
    """

    storage: BaseStorage
    study_id: int
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def start(
        self, number: int, genome: Genome, distributions: Mapping[str, BaseDistribution]
    ) -> int:
        """See `Records`."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(genome),
            distributions={n: distributions[n] for n in genome},
        )
        with self.lock:
            recorded = self.storage.get_n_trials(self.study_id)
            if recorded != number:
                raise misnumbered(recorded, number)
            return self.storage.create_new_trial(self.study_id, trial)

    def finish(self, trial_id: int, end: End) -> None:
        """See `Records`."""
        try:
            for key, value in end.user.items():
                self.storage.set_trial_user_attr(trial_id, key, value)
            for key, value in end.system.items():
                self.storage.set_trial_system_attr(trial_id, key, value)
            self.storage.set_trial_state_values(trial_id, end.state, end.values)
        except UpdateFinishedTrialError:
            raise ended_before() from None

    def note(self, attributes: Mapping[str, Any]) -> None:
        """See `Records`."""
        for key, value in attributes.items():
            self.storage.set_study_system_attr(self.study_id, key, value)

    def attribute(self, key: str) -> Any:
        """See `Records`."""
        return self.storage.get_study_user_attrs(self.study_id).get(key)

    def swap(self, key: str, old: Any, new: Any) -> bool:
        """See `Records`."""
        with self.lock:
            if self.attribute(key) != old:
                return False
            self.storage.set_study_user_attr(self.study_id, key, new)
            return True


def misnumbered(recorded: int, expected: int) -> ConfigError:
    """The error of a trial that somebody else's came before."""
    return ConfigError(
        f"storage: the study numbers a new trial {recorded} where the search expects {expected}; "
        "does another process write to it?"
    )


def ended_before() -> ConfigError:
    """The error of a trial that somebody else has ended."""
    return ConfigError(
        "storage: a trial that was being evaluated has already ended in the study; does another "
        "process write to it?"
    )
