"""Trials written to Optuna's own tables, a transaction a call, past its interface.

That interface asks the database for every parameter of a new trial: 70 ms for 40 of them. The
tables are private to Optuna; `tables` looks whether they are those that are known here, and where
they are not, the public interface does the same, slowly.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError

from evoaim.records import End, ended_before, misnumbered
from search_spaces.genes import Genome

_COLUMNS = {
    "StudyModel": {"study_id", "study_name"},
    "StudyUserAttributeModel": {"study_user_attribute_id", "study_id", "key", "value_json"},
    "StudySystemAttributeModel": {"study_system_attribute_id", "study_id", "key", "value_json"},
    "TrialModel": {
        *("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete")
    },
    "TrialUserAttributeModel": {"trial_user_attribute_id", "trial_id", "key", "value_json"},
    "TrialSystemAttributeModel": {"trial_system_attribute_id", "trial_id", "key", "value_json"},
    "TrialParamModel": {
        *("param_id", "trial_id", "param_name", "param_value", "distribution_json")
    },
    "TrialValueModel": {"trial_value_id", "trial_id", "objective", "value", "value_type"},
}


@dataclass(frozen=True)
class Tables:
    """Optuna's tables, in the order of `_COLUMNS`."""

    value_model: Any  # between numbers and how infinite ones are stored
    study: sa.Table
    study_user: sa.Table
    study_system: sa.Table
    trial: sa.Table
    trial_user: sa.Table
    trial_system: sa.Table
    param: sa.Table
    value: sa.Table


def tables(storage: BaseStorage) -> Tables | None:
    """The tables of a database storage; None if this Optuna's are not those that are known here."""
    if not isinstance(storage, RDBStorage) or not hasattr(storage, "_get_trials"):
        return None
    try:
        from optuna.storages._rdb import models

        found: list[Any] = [getattr(models, name).__table__ for name in _COLUMNS]
        value_model = models.TrialValueModel
    except (ImportError, AttributeError):
        return None
    known = all(set(t.c.keys()) == c for t, c in zip(found, _COLUMNS.values(), strict=True))
    coded = hasattr(value_model, "value_to_stored_repr")
    coded &= hasattr(value_model, "stored_repr_to_value")
    return Tables(value_model, *found) if known and coded else None


@dataclass(frozen=True)
class RowRecords:
    """A transaction for every call."""

    storage: Any  # RDBStorage
    study_id: int
    tables: Tables

    def start(
        self, number: int, genome: Genome, distributions: Mapping[str, BaseDistribution]
    ) -> int:
        """See `Records`."""
        sql, study = self._statements, {"study": self.study_id}
        with self.storage.engine.begin() as c:
            c.execute(sql.lock, study)  # whoever else adds a trial waits here
            row = {"study_id": self.study_id, "number": number, "state": TrialState.RUNNING}
            made = c.execute(sql.trial, {**row, "datetime_start": _now()})
            trial_id = int(made.inserted_primary_key[0])
            last = c.scalar(sql.earlier, {**study, "trial": trial_id})
            recorded = 0 if last is None else last + 1
            if recorded != number:
                raise misnumbered(recorded, number)
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distributions[name].to_internal_repr(value),
                    "distribution_json": self._json(name, distributions[name]),
                }
                for name, value in genome.items()
            ]
            if rows:
                c.execute(sql.param, rows)
        return trial_id

    def finish(self, trial_id: int, end: End) -> None:
        """See `Records`."""
        sql = self._statements
        pairs = map(self.tables.value_model.value_to_stored_repr, end.values or ())
        rows = [
            {"trial_id": trial_id, "objective": i, "value": value, "value_type": kind}
            for i, (value, kind) in enumerate(pairs)
        ]
        with self.storage.engine.begin() as c:
            done = c.execute(sql.end, {"trial": trial_id, "became": end.state, "at": _now()})
            if done.rowcount != 1:
                raise ended_before()
            if rows:
                c.execute(sql.value, rows)
            sql.user.put(c, {"trial_id": trial_id}, end.user)
            sql.system.put(c, {"trial_id": trial_id}, end.system)

    def note(self, attributes: Mapping[str, Any]) -> None:
        """See `Records`."""
        with self.storage.engine.begin() as c:
            self._statements.study_system.put(c, {"study_id": self.study_id}, attributes)

    def attribute(self, key: str) -> Any:
        """See `Records`."""
        t = self.tables.study_user
        with self.storage.engine.begin() as c:
            found = c.scalar(sa.select(t.c.value_json).filter_by(study_id=self.study_id, key=key))
        return None if found is None else json.loads(found)

    def swap(self, key: str, old: Any, new: Any) -> bool:
        """See `Records`."""
        t, row = self.tables.study_user, {"study_id": self.study_id, "key": key}
        try:
            with self.storage.engine.begin() as c:
                if old is None:
                    c.execute(sa.insert(t).values(**row, value_json=json.dumps(new)))
                    return True
                same = sa.update(t).filter_by(**row, value_json=json.dumps(old))
                return bool(c.execute(same.values(value_json=json.dumps(new))).rowcount == 1)
        except IntegrityError:  # somebody has just set it
            return False

    @cached_property
    def _statements(self) -> "_Statements":
        return _Statements.of(self.tables)

    @cached_property
    def _texts(self) -> dict[str, tuple[BaseDistribution, str]]:
        return {}

    def _json(self, name: str, distribution: BaseDistribution) -> str:
        known, text = self._texts.get(name, (None, ""))
        if known is not distribution:
            text = distribution_to_json(distribution)
            self._texts[name] = (distribution, text)
        return text


@dataclass(frozen=True)
class _Attributes:
    """Statements that set attributes, whether they are there or not."""

    delete: Any
    insert: Any

    @classmethod
    def of(cls, table: sa.Table, owner: str) -> "_Attributes":
        keys: Any = sa.bindparam("keys", expanding=True)
        mine = sa.delete(table).where(table.c[owner] == sa.bindparam(owner), table.c.key.in_(keys))
        return cls(mine, sa.insert(table))

    def put(self, c: sa.Connection, owner: dict[str, int], new: Mapping[str, Any]) -> None:
        if new:
            rows = [{**owner, "key": k, "value_json": json.dumps(v)} for k, v in new.items()]
            c.execute(self.delete, {**owner, "keys": list(new)})
            c.execute(self.insert, rows)


@dataclass(frozen=True)
class _Statements:
    """Built once: that takes SQLAlchemy as long as running them."""

    lock: Any
    trial: Any
    earlier: Any
    param: Any
    value: Any
    end: Any
    user: _Attributes
    system: _Attributes
    study_system: _Attributes

    @classmethod
    def of(cls, t: Tables) -> "_Statements":
        study: Any = sa.bindparam("study")
        trial: Any = sa.bindparam("trial")
        of_study = sa.select(t.trial.c.number).where(t.trial.c.study_id == study)
        last = t.trial.c.trial_id.desc()
        running = sa.update(t.trial).where(t.trial.c.trial_id == trial)
        running = running.where(t.trial.c.state == TrialState.RUNNING)
        lock = sa.select(t.study.c.study_id).where(t.study.c.study_id == study)
        return cls(
            lock.with_for_update(),
            sa.insert(t.trial),
            of_study.where(t.trial.c.trial_id < trial).order_by(last).limit(1),
            sa.insert(t.param),
            sa.insert(t.value),
            running.values(state=sa.bindparam("became"), datetime_complete=sa.bindparam("at")),
            _Attributes.of(t.trial_user, "trial_id"),
            _Attributes.of(t.trial_system, "trial_id"),
            _Attributes.of(t.study_system, "study_id"),
        )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
