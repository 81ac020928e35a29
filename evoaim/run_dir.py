"""The run directory: what a search leaves behind, each file written whole or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evoaim.errors import ConfigError
from fitness.types import DocumentScores, Scores
from search_spaces import strict_yaml

MARK = "# resolved by evoaim search; change the experiment, not this file"


@dataclass(frozen=True)
class RunDir:
    """Paths of a run directory and how its files are read and written."""

    path: Path

    @property
    def experiment(self) -> Path:
        """The resolved experiment file."""
        return self.path / "experiment.yaml"

    @property
    def study(self) -> Path:
        """The Optuna study."""
        return self.path / "study.db"

    @property
    def importance(self) -> Path:
        """AIM importance of the base."""
        return self.path / "importance.safetensors"

    @property
    def statistics(self) -> Path:
        """Folder of the models' statistics on the calibration text, for methods that need them."""
        return self.path / "statistics"

    @property
    def front(self) -> Path:
        """The front with both scores."""
        return self.path / "front.json"

    @property
    def promoted(self) -> Path:
        """Who was scored on more documents, and of how many trials they were chosen."""
        return self.path / "promoted.json"

    @property
    def parents(self) -> Path:
        """Base and experts with both scores."""
        return self.path / "parents.json"

    @property
    def manifest(self) -> Path:
        """Versions and content hashes."""
        return self.path / "manifest.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def recipe(self, trial: int) -> Path:
        """The recipe of a trial."""
        return self.path / "recipes" / f"trial_{trial}.yaml"

    def responses(self, who: str, split: str) -> Path:
        """Per-document scores of one model (`trial_3`, `base`, `math`) on a split."""
        return self.path / "responses" / split / f"{who}.json"

    @property
    def reused(self) -> Path:
        """Scores that earlier runs lent when this one began."""
        return self.path / "responses" / "reused.json"

    def is_run(self) -> bool:
        """Whether a search has written here (and not just somebody's experiment.yaml lies here)."""
        try:
            return self.experiment.read_text(encoding="utf-8").startswith(MARK)
        except (OSError, UnicodeDecodeError):
            return False

    def check(self, experiment: Mapping[str, Any]) -> None:
        """Check that the directory is new, empty, or this experiment's; writes nothing.

        The budget may differ (a search can be continued), and so may the device.

        Raises:
            ConfigError: not empty and no run, or the run of another experiment.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run directory '{self.path}': is a file; give another --run-dir")
        if self.is_run():
            known = strict_yaml.read(self.experiment)
            different = _difference(known, experiment)
            if different:
                raise ConfigError(
                    f"run directory '{self.path}': belongs to another experiment ({different}); "
                    "give another --run-dir, or remove this one"
                )
        elif self.path.is_dir() and any(f.name[0] != "." for f in self.path.iterdir()):
            raise ConfigError(
                f"run directory '{self.path}': is not empty and not a run; give another --run-dir"
            )

    def open(self, experiment: Mapping[str, Any]) -> None:
        """Create the directory (see `check`) and write the resolved experiment.

        Raises:
            ConfigError: cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.experiment, f"{MARK}\n{strict_yaml.dump(dict(experiment))}")
        except OSError as error:
            raise ConfigError(f"run directory '{self.path}': cannot be written ({error})") from None

    @contextmanager
    def begun(self, experiment: Mapping[str, Any]) -> Iterator[None]:
        """`open` it, and take that back if the block fails and the run was new.

        Raises:
            ConfigError: cannot be written.
        """
        new = not self.is_run()
        self.open(experiment)
        try:
            yield
        except ConfigError:
            if new:
                for path in (self.experiment, self.manifest):
                    path.unlink(missing_ok=True)
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create and hold the run directory: one search writes it at a time.

        Raises:
            ConfigError: it cannot be written, or another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"run directory '{self.path}': cannot be written ({error})") from None
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"run directory '{self.path}': another evoaim search is writing it"
                ) from None
            yield


def existing(path: str | Path) -> RunDir:
    """The run directory at a path.

    Raises:
        ConfigError: there is none.
    """
    run = RunDir(Path(path))
    if not run.path.exists():
        raise ConfigError(f"'{path}': no such folder; `evoaim search` makes a run directory")
    if not run.is_run():
        raise ConfigError(
            f"'{path}' is not a run directory (no experiment.yaml that a search wrote); "
            "`evoaim search` makes one"
        )
    return run


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        ConfigError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"'{path}': no such file; has the search finished? `evoaim search` resumes it"
        ) from None
    except ValueError as error:
        raise ConfigError(f"'{path}': is damaged ({error})") from None


def write_scores(path: Path, scores: Scores) -> None:
    """Per-document scores as JSON: metric key -> documents, totals, weights."""
    write_text(path, json.dumps(_plain(scores)) + "\n")


def read_scores(path: Path) -> dict[str, DocumentScores] | None:
    """Scores written by `write_scores`; None if there are none."""
    return _scores(read_json(path)) if path.is_file() else None


def write_models(path: Path, models: Mapping[str, Scores]) -> None:
    """Scores of several models in one file."""
    write_text(path, json.dumps({name: _plain(s) for name, s in models.items()}) + "\n")


def read_models(path: Path) -> dict[str, Scores] | None:
    """What `write_models` wrote; None if there is no such file."""
    if not path.is_file():
        return None
    return {name: _scores(plain) for name, plain in read_json(path).items()}


def _plain(scores: Scores) -> dict[str, Any]:
    return {
        key: {
            "documents": list(s.documents),
            "total": s.total.tolist(),
            "weight": s.weight.tolist(),
        }
        for key, s in scores.items()
    }


def _scores(plain: Mapping[str, Any]) -> dict[str, DocumentScores]:
    return {
        key: DocumentScores(
            tuple(s["documents"]),
            np.array(s["total"], dtype=np.float64),
            np.array(s["weight"], dtype=np.float64),
        )
        for key, s in plain.items()
    }


def _difference(known: Mapping[str, Any], ours: Mapping[str, Any], path: str = "") -> str:
    """The first key whose value differs, or nothing."""
    for key in sorted({*known, *ours}):
        where = f"{path}{key}"
        if where in ("budget", "models.device", "models.placement", "fitness.batch_size"):
            continue
        a, b = known.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if found := _difference(a, b, f"{where}."):
                return found
        elif a != b:
            if not path and key not in known:  # all are written down, also those left out
                return f"without {key}: another version of evoaim began it"
            return f"{where}: {a!r} there, {b!r} here"
    return ""
