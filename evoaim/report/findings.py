"""What a run has found, in numbers: pure functions of its results."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evoaim.front import Losses, hypervolume, nondominated, reference_point
from evoaim.results import Entry, Estimates, Results, front_of, losses
from fitness.types import Estimate, Objective, Split

MAX_VOLUME_OBJECTIVES = 6  # an exact hypervolume takes time exponential in the objectives
MAX_MARKS = 6000  # of candidates in one chart; a page with more is slow


Level = Literal["report", "promoted", "search"]
Measure = Callable[[Sequence[Objective], Sequence[Estimates]], Losses]


@dataclass(frozen=True)
class Findings:
    """A run's trials, front and parents, and which document sets the front is scored on."""

    objectives: tuple[Objective, ...]  # optimized ones
    trials: tuple[Entry, ...]  # finished, in order
    front: tuple[Entry, ...]
    parents: tuple[Entry, ...]
    rescored: bool  # the front has report estimates
    raced: frozenset[int] = frozenset()  # trials that were dropped before all documents were run
    violations: Mapping[int, float] = field(default_factory=dict)  # of infeasible trials
    keep: tuple[str, ...] = ()  # the constraints as written

    @property
    def split(self) -> Split:
        """The documents whose estimates count."""
        return "report" if self.rescored else "search"

    @cached_property
    def promoted(self) -> bool:
        """Whether the front was chosen by more search documents than a candidate runs."""
        return any(e.promoted is not None for e in self.front)

    @cached_property
    def exact(self) -> bool:
        """Whether some estimate is from all search documents, so that it has no error."""
        known = [s for e in (*self.front, *self.parents) for s in (e.search, e.known)]
        return any(e.stderr == 0 for estimates in known for e in estimates.values())

    @cached_property
    def apart(self) -> bool:
        """Whether candidates were compared by figures with a level of their own."""
        known = [e.search for e in (*self.parents, *self.trials)]
        return any(e[o.name].ranked != e[o.name].value for e in known for o in self.objectives)

    @cached_property
    def others(self) -> tuple[Entry, ...]:
        """Finished trials that are not on the front."""
        front = {e.trial for e in self.front}
        return tuple(e for e in self.trials if e.trial not in front)

    @cached_property
    def watched(self) -> tuple[str, ...]:
        """Names of what was measured, but not optimized."""
        names = (n for e in (*self.parents, *self.front, *self.trials) for n in e.search)
        return tuple(n for n in dict.fromkeys(names) if n not in {o.name for o in self.objectives})

    @property
    def goal(self) -> str | None:
        """The objectives' common goal; None if some are maximized and some minimized."""
        goals = {o.goal for o in self.objectives}
        return goals.pop() if len(goals) == 1 else None

    def eligible(self, entry: Entry) -> bool:
        """Whether a trial may stand in a front: it ran to its end and keeps the constraints."""
        return entry.trial not in self.raced and entry.trial not in self.violations


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
        front = tuple(replace(e, report=None, promoted=None) for e in front)
    return Findings(
        results.objectives,
        trials,
        front,
        results.parents,
        rescored,
        frozenset(t.number for t in done if t.raced),
        {t.number: t.violation for t in done if t.violation > 0},
        tuple(results.experiment.get("keep", ())),
    )


def drawn(entries: Sequence[Entry], panels: int) -> Sequence[Entry]:
    """Candidates that a chart of so many panels shows: all, or every second, every third and so on.

    They are evenly spaced over the search, so that what is drawn looks like the whole.
    """
    most = MAX_MARKS // panels
    return entries[:: max(1, math.ceil(len(entries) / most))]


def counted(entry: Entry, split: Split) -> Estimates:
    """The best estimates from one set of documents; none where it was not scored."""
    return entry.known if split == "search" else entry.report or {}


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
    """The front member with the best mean on search documents; None if there is no mean.

    The report documents choose nothing, so what they say of it is unbiased.
    """
    return best(found, found.front, "search") if found.front and found.goal else None


def values(objectives: Sequence[Objective], estimates: Sequence[Estimates]) -> Losses:
    """`losses` of the values that a person is shown, whatever candidates were compared by."""
    shown = [{n: replace(e, rank_value=None) for n, e in each.items()} for each in estimates]
    return losses(objectives, shown)


def reference(found: Findings, measure: Measure) -> NDArray[np.float64] | None:
    """The corner of hypervolumes, from the parents' search estimates; None without parents.

    Args:
        found: what the run has found.
        measure: `values`, or `losses` for what candidates were compared by.
    """
    rows = measure(found.objectives, [e.search for e in found.parents])
    return reference_point(rows) if len(rows) else None


@dataclass(frozen=True)
class Volume:
    """Hypervolume of the parents alone and of the front with the parents."""

    level: Level
    parents: float
    together: float


def volumes(found: Findings) -> tuple[Volume, ...]:
    """By the report documents (once re-scored), the promoted estimates and the search's comparison.

    The first two are measured from the corner of `values`, the last from that of `losses`.
    """
    if not found.parents or not 2 <= len(found.objectives) <= MAX_VOLUME_OBJECTIVES:
        return ()
    made = [_volume(found, "search", losses, [e.search for e in found.front])]
    if found.promoted:
        made.insert(0, _volume(found, "promoted", values, [e.known for e in found.front]))
    if found.rescored:
        made.insert(0, _volume(found, "report", values, [e.report or {} for e in found.front]))
    return tuple(made)


def _volume(found: Findings, level: Level, measure: Measure, front: Sequence[Estimates]) -> Volume:
    corner = reference(found, measure)
    assert corner is not None
    of_parents = [(e.report or {}) if level == "report" else e.search for e in found.parents]
    parents, ours = (measure(found.objectives, estimates) for estimates in (of_parents, front))
    alone = hypervolume(parents, corner)
    return Volume(level, alone, hypervolume(np.vstack([parents, ours]), corner))


def progress(found: Findings) -> list[float]:
    """Hypervolume of the parents alone, then with the trials so far, after each finished one.

    By what candidates were compared by, as the search counts it: without those that were raced out
    or break a constraint. Empty where hypervolumes are not computed.
    """
    corner = reference(found, losses)
    if corner is None or not 2 <= len(found.objectives) <= MAX_VOLUME_OBJECTIVES:
        return []
    archive = losses(found.objectives, [e.search for e in found.parents])
    curve = [hypervolume(archive, corner)]
    rows = losses(found.objectives, [e.search for e in found.trials])
    for entry, row in zip(found.trials, rows, strict=True):
        if found.eligible(entry) and not (archive <= row).all(axis=1).any():
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
