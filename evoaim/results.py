"""What a run has found, read back from its directory without torch, models or tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evoaim.errors import ConfigError
from evoaim.front import Losses, nondominated
from evoaim.ledger import Ledger, Trial, sqlite_url
from evoaim.run_dir import RunDir, read_json
from fitness.types import Estimate, Objective
from search_spaces import strict_yaml

Estimates = Mapping[str, Estimate]


@dataclass(frozen=True)
class Entry:
    """A front member or a parent: its estimates on the search and on the report documents."""

    name: str  # "trial 17", "base", "math"
    trial: int | None
    genes: Mapping[str, Any]
    recipe: Mapping[str, Any]
    search: Estimates
    report: Estimates | None  # None: not scored yet
    promoted: Estimates | None = None  # from more search documents; None: not promoted

    @property
    def known(self) -> Estimates:
        """The best estimates from search documents."""
        return self.search if self.promoted is None else self.promoted

    def to_dict(self) -> dict[str, Any]:
        """As it stands in front.json and parents.json."""
        return {
            "trial": self.trial,
            "name": self.name,
            "genes": dict(self.genes),
            "recipe": dict(self.recipe),
            "search": _plain(self.search),
            "report": None if self.report is None else _plain(self.report),
            "promoted": None if self.promoted is None else _plain(self.promoted),
            "ranked": {n: e.ranked for n, e in self.search.items()},
            "documents": {n: e.documents for n, e in self.search.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Entry":
        """The inverse of `to_dict`."""
        return cls(
            data["name"],
            data["trial"],
            data["genes"],
            data["recipe"],
            {
                n: replace(
                    e,
                    rank_value=data.get("ranked", {}).get(n),
                    documents=data.get("documents", {}).get(n, 0),
                )
                for n, e in _estimates(data["search"]).items()
            },
            None if data["report"] is None else _estimates(data["report"]),
            None if data.get("promoted") is None else _estimates(data["promoted"]),
        )


@dataclass(frozen=True)
class Results:
    """A run as far as it has come. `front` is empty until the search has finished once."""

    experiment: Mapping[str, Any]
    objectives: tuple[Objective, ...]  # names and goals; metrics are not read back
    trials: tuple[Trial, ...]
    front: tuple[Entry, ...]
    parents: tuple[Entry, ...]

    @classmethod
    def read(cls, run: RunDir) -> "Results":
        """Read a run directory, finished or not.

        Raises:
            ConfigError: no study yet, or a damaged file.
        """
        experiment = strict_yaml.read(run.experiment)
        ledger = Ledger.read(experiment.get("storage") or sqlite_url(run.study), experiment["name"])
        trials = tuple(ledger.trials())
        current = run.front.is_file() and _current(run, ledger, trials)
        front = read_json(run.front) if current else []
        parents = read_json(run.parents) if run.parents.is_file() else []
        return cls(
            experiment,
            ledger.objectives,
            trials,
            tuple(map(Entry.from_dict, front)),
            tuple(map(Entry.from_dict, parents)),
        )

    def trial(self, number: int) -> Trial:
        """One finished trial.

        Raises:
            ConfigError: no such trial, or it has no result.
        """
        done = [t.number for t in self.trials if t.state == "done"]
        if not done:
            raise ConfigError(f"trial {number}: no candidate of this run has finished yet")
        if number not in done:
            raise ConfigError(
                f"trial {number}: no finished trial of that number; the run has "
                f"{len(done)} (0 to {max(done)}), failed ones not counted"
            )
        return self.trials[number]


def _current(run: RunDir, ledger: Ledger, trials: Sequence[Trial]) -> bool:
    """Whether front.json is about all trials: the search has not gone on since it was written."""
    if run.promoted.is_file():
        return bool(read_json(run.promoted)["trials"] == len(trials))
    written = [e["trial"] for e in read_json(run.front)]
    return written == [t.number for t in front_of(ledger.objectives, trials)]


def losses(objectives: Sequence[Objective], estimates: Sequence[Estimates]) -> Losses:
    """One row a candidate, lower is better, NaN where there is no estimate: (n, n_objectives)."""
    rows = [
        [o.loss(e[o.name].ranked) if o.name in e else np.nan for o in objectives] for e in estimates
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def front_of(objectives: Sequence[Objective], trials: Sequence[Trial]) -> list[Trial]:
    """The non-dominated feasible trials by their search estimates, in the order they were found."""
    able = [t for t in trials if t.eligible]
    keep = nondominated(losses(objectives, [t.estimates for t in able]))
    return [t for t, kept in zip(able, keep, strict=True) if kept]


def _plain(estimates: Estimates) -> dict[str, Any]:
    return {n: {"value": e.value, "stderr": e.stderr} for n, e in estimates.items()}


def _estimates(data: Mapping[str, Any]) -> dict[str, Estimate]:
    return {n: Estimate(e["value"], e["stderr"]) for n, e in data.items()}
