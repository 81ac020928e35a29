"""What a run has found, in numbers: pure functions of its results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evoaim.front import hypervolume, nondominated, reference_point
from evoaim.results import Entry, Estimates, Results, front_of, losses
from fitness.types import Estimate, Objective, Split

MAX_VOLUME_OBJECTIVES = 6  # an exact hypervolume takes time exponential in the objectives


@dataclass(frozen=True)
class Findings:
    """A run's trials, front and parents, and which document sets the front is scored on."""

    objectives: tuple[Objective, ...]
    trials: tuple[Entry, ...]  # finished, in order
    front: tuple[Entry, ...]
    parents: tuple[Entry, ...]
    rescored: bool  # the front has report estimates

    @property
    def split(self) -> Split:
        """The documents whose estimates count."""
        return "report" if self.rescored else "search"

    @property
    def dominated(self) -> tuple[Entry, ...]:
        """Finished trials that are not on the front."""
        front = {e.trial for e in self.front}
        return tuple(e for e in self.trials if e.trial not in front)

    @property
    def goal(self) -> str | None:
        """The objectives' common goal; None if some are maximized and some minimized."""
        goals = {o.goal for o in self.objectives}
        return goals.pop() if len(goals) == 1 else None


def find(results: Results) -> Findings:
    """The findings of a run; the front comes from the search estimates until it is re-scored."""
    done = [t for t in results.trials if t.state == "done"]
    trials = tuple(
        Entry(f"trial {t.number}", t.number, t.genome, {}, t.estimates, None) for t in done
    )
    current = {t.number for t in front_of(results.objectives, done)}
    front = results.front or tuple(e for e in trials if e.trial in current)
    rescored = bool(front) and all(e.report is not None for e in (*front, *results.parents))
    if not rescored:
        front = tuple(replace(e, report=None) for e in front)
    return Findings(results.objectives, trials, front, results.parents, rescored)


def counted(entry: Entry, split: Split) -> Estimates:
    """The estimates on one set of documents; none where it was not scored."""
    return entry.search if split == "search" else entry.report or {}


def mean(found: Findings, estimates: Estimates) -> Estimate:
    """The unweighted mean of the objectives, which have one goal; their errors are independent."""
    parts = [estimates[o.name] for o in found.objectives]
    error = math.sqrt(sum(p.stderr**2 for p in parts)) / len(parts)
    return Estimate(sum(p.value for p in parts) / len(parts), error)


def best(found: Findings, entries: Sequence[Entry], split: Split) -> Entry:
    """The entry with the best mean of the objectives, which have one goal."""
    sign = 1 if found.goal == "minimize" else -1
    return min(entries, key=lambda e: sign * mean(found, counted(e, split)).value)


def chosen(found: Findings) -> Entry | None:
    """The front member with the best search mean, an unbiased choice; None if there is no mean."""
    return best(found, found.front, "search") if found.front and found.goal else None


def reference(found: Findings) -> NDArray[np.float64] | None:
    """The corner of all hypervolumes, from the parents' search losses; None without parents."""
    rows = losses(found.objectives, [e.search for e in found.parents])
    return reference_point(rows) if len(rows) else None


@dataclass(frozen=True)
class Volume:
    """Hypervolume of the parents alone and of the front with the parents."""

    split: Split
    parents: float
    together: float


def volumes(found: Findings) -> tuple[Volume, ...]:
    """On the report documents (once re-scored) and on the search documents; same reference."""
    corner = reference(found)
    if corner is None or not 2 <= len(found.objectives) <= MAX_VOLUME_OBJECTIVES:
        return ()
    splits: tuple[Split, ...] = ("report", "search") if found.rescored else ("search",)
    made = []
    for split in splits:
        parents, front = (
            losses(found.objectives, [counted(e, split) for e in entries])
            for entries in (found.parents, found.front)
        )
        alone = hypervolume(parents, corner)
        made.append(Volume(split, alone, hypervolume(np.vstack([parents, front]), corner)))
    return tuple(made)


def progress(found: Findings) -> list[float]:
    """Hypervolume of the parents alone, then with the trials so far, after each finished one.

    By search estimates; empty where hypervolumes are not computed.
    """
    corner = reference(found)
    if corner is None or not 2 <= len(found.objectives) <= MAX_VOLUME_OBJECTIVES:
        return []
    archive = losses(found.objectives, [e.search for e in found.parents])
    curve = [hypervolume(archive, corner)]
    for row in losses(found.objectives, [e.search for e in found.trials]):
        if not (archive <= row).all(axis=1).any():
            archive = np.vstack([archive, row])
            archive = archive[nondominated(archive)]
            curve.append(hypervolume(archive, corner))
        else:
            curve.append(curve[-1])
    return curve


def undominated(found: Findings) -> set[str]:
    """Names of the front members that no other member and no parent dominates, where it counts."""
    entries = [*found.front, *found.parents]
    keep = nondominated(losses(found.objectives, [counted(e, found.split) for e in entries]))
    return {e.name for e, kept in zip(entries, keep, strict=True) if kept and e.trial is not None}


def shift(entries: Sequence[Entry], objective: Objective) -> float | None:
    """Mean change of an objective from the search to the report documents; None if not scored."""
    name = objective.name
    moves = [e.report[name].value - e.search[name].value for e in entries if e.report]
    return sum(moves) / len(moves) if moves else None
