"""A journal file, replayed without copying all attributes of a study for every one that is set.

A note on every trial makes those copies quadratic in the trials: for 10,000 of them, Optuna takes
40 ms to write one and most of a minute to open the file.
"""

from collections.abc import Iterator
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def open_journal(path: str) -> JournalStorage:
    """Optuna's storage of a journal file; the file is created if there is none."""
    backend: Any = JournalFileBackend(path)
    read = backend.read_logs
    backend.read_logs = _nothing  # until the replay is prepared
    storage: Any = JournalStorage(backend)
    backend.read_logs = read
    replay: Any = getattr(storage, "_replay_result", None)
    private = ("_apply_set_study_system_attr", "_study_exists", "_studies")
    if not all(hasattr(replay, name) for name in private) or not hasattr(storage, "_thread_lock"):
        return JournalStorage(JournalFileBackend(path))  # another Optuna: slow, but right

    def set_in_place(log: dict[str, Any]) -> None:
        if replay._study_exists(log["study_id"], log):
            replay._studies[log["study_id"]].system_attrs.update(log["system_attr"])

    shared = storage.get_study_system_attrs

    def copied(study_id: int) -> dict[str, Any]:
        attributes = shared(study_id)
        with storage._thread_lock:  # another thread may replay meanwhile
            return dict(attributes)

    replay._apply_set_study_system_attr = set_in_place
    storage.get_study_system_attrs = copied
    opened: JournalStorage = storage
    return opened


def _nothing(_after: int) -> Iterator[dict[str, Any]]:
    return iter(())
