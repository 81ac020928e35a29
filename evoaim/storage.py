"""Opens the storage that a study lies in: a SQLite file, a journal file or a database server."""

import os
import re
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileOpenLock
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from evoaim.errors import ConfigError
from evoaim.journal import open_journal
from evoaim.records import PublicRecords, Records
from evoaim.row_reading import read_quickly
from evoaim.rows import RowRecords, tables
from evoaim.storage_url import JOURNAL, MEMORY, SQLITE, redacted, storage_file

FAILURES = (SQLAlchemyError, OptunaError, OSError)  # of a storage in use
_EXTRAS = {"psycopg": "it comes with the extra: pip install 'evoaim[postgres]'"}
_ALLOWED = (
    "allowed are sqlite:///path, journal:///path and those of SQLAlchemy, "
    "such as postgresql://user@host/database"
)
_WAIT = 60  # seconds for another process's write to a SQLite file


def open_storage(url: str) -> BaseStorage:
    """An Optuna storage: a journal file (`journal:///path`), `memory:`, or a database by its URL.

    `$NAME` and `${NAME}` stand for environment variables, so that no password lies in a file; in
    the parts of a URL (user, password, host, database) their values are taken as they are.

    SQLite writes ahead and syncs at checkpoints, so that a commit does not wait for the disk: a
    killed process loses nothing, a power cut at most the last trials, which are evaluated again.

    Raises:
        ConfigError: the URL is none, its driver is not installed, or the storage cannot be opened.
    """
    with _openable(url):
        with quiet():
            storage = _opened(url)
        read_quickly(storage)
        return storage


def check_storage(url: str) -> None:
    """What `open_storage` would refuse, as far as that can be told without opening anything.

    Raises:
        ConfigError: the URL is none, its driver is not installed, or its folder does not exist.
    """
    if url == MEMORY:
        return
    path = storage_file(url)
    if path is None:
        with _openable(url):
            sqlalchemy.make_url(_server(url)).get_dialect().import_dbapi()
    elif not path.absolute().parent.is_dir():
        raise ConfigError(
            f"storage: the study cannot be opened (there is no folder '{path.absolute().parent}')"
        )


def records_of(storage: BaseStorage, study_id: int, url: str) -> Records:
    """The quickest way to write a study of this storage."""
    if isinstance(storage, JournalStorage):
        return PublicRecords(storage, study_id, _FileLock(f"{storage_file(url)}.lease"))
    found = tables(storage)
    return RowRecords(storage, study_id, found) if found else PublicRecords(storage, study_id)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of a storage in use as errors that its user understands.

    Raises:
        ConfigError: the storage failed.
    """
    try:
        yield
    except FAILURES as error:
        raise ConfigError(
            f"storage: the study can no longer be read or written ({_reason(error)}); what is "
            "recorded is kept, the same command goes on from there"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without a log line a trial and without experimental warnings; restored afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@dataclass(frozen=True)
class _FileLock:
    """A lock file that is removed when its owner has been gone for half a minute."""

    path: str

    def __enter__(self) -> None:
        JournalFileOpenLock(self.path).acquire()

    def __exit__(self, *_: object) -> None:
        JournalFileOpenLock(self.path).release()


@contextmanager
def _openable(url: str) -> Iterator[None]:
    """Errors of a storage that cannot be opened as errors that its user understands."""
    try:
        yield
    except NoSuchModuleError:
        kind = redacted(url).partition(":")[0]
        raise ConfigError(f"storage: '{kind}' is no kind of storage; {_ALLOWED}") from None
    except ModuleNotFoundError as error:
        raise _missing(url, error) from None
    except ImportError as error:  # Optuna's, around the one that names the module
        raise _missing(url, error.__cause__ or error) from None
    except (*FAILURES, RuntimeError) as error:  # the latter: tables of another Optuna
        reason = _reason(error)
        raise ConfigError(f"storage: the study cannot be opened ({reason})") from error


def _opened(url: str) -> BaseStorage:
    if url == MEMORY:
        return InMemoryStorage()
    if url.startswith(JOURNAL):
        path = os.path.expandvars(url.removeprefix(JOURNAL))
        return open_journal(path)
    if url.startswith(SQLITE):
        options = {"connect_args": {"timeout": _WAIT}}
        storage = RDBStorage(_file(storage_file(url)), engine_kwargs=options)
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # connections opened before
        return storage
    # a server may close a connection that has been idle for the length of a candidate
    storage = RDBStorage(_server(url), engine_kwargs={"pool_pre_ping": True})
    weakref.finalize(storage, storage.engine.dispose)
    return storage


def _file(path: Path | None) -> str:
    """The URL of a SQLite file, whatever its path looks like to SQLAlchemy and Optuna."""
    text = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()
    return text.replace("{", "{{").replace("}", "}}")  # braces are a format of Optuna's


def _server(url: str) -> str:
    """The URL with its variables' values, percent-encoded, and with the driver of our extra."""
    try:
        parsed = _expanded(sqlalchemy.make_url(url))
    except (ArgumentError, ValueError):
        try:  # a variable may stand for several parts
            parsed = sqlalchemy.make_url(os.path.expandvars(url))
        except (ArgumentError, ValueError):
            # without its cause, which may quote a part of the password
            raise ConfigError(f"storage: '{redacted(url)}' is no storage URL; {_ALLOWED}") from None
    if parsed.drivername in ("postgresql", "postgres"):  # SQLAlchemy's default was another once
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False).replace("{", "%7B").replace("}", "%7D")


def _expanded(url: sqlalchemy.URL) -> sqlalchemy.URL:
    def known(part: str | None) -> str | None:
        return None if part is None else os.path.expandvars(part)

    password = known(None if url.password is None else str(url.password))
    user, host, database = map(known, (url.username, url.host, url.database))
    return url.set(username=user, password=password, host=host, database=database)


def _write_ahead(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _missing(url: str, error: BaseException) -> ConfigError:
    module = getattr(error, "name", None) or str(error)
    hint = _EXTRAS.get(module, "install it, or use another storage")
    return ConfigError(f"storage: '{redacted(url)}' needs the module '{module}'; {hint}")


def _reason(error: BaseException) -> str:
    """The first line of the driver's own message, without the statement and its values."""
    text = str(getattr(error, "orig", None) or error.__cause__ or error)
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(://[^:/@\s]*):\S*@", r"\1:…@", first)
