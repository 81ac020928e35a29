"""How far estimates move when more is known: what a choice by few documents owes to luck."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median

from evoaim.report import text
from evoaim.report.findings import Findings
from evoaim.results import Estimates
from fitness.types import Objective


@dataclass(frozen=True)
class Shift:
    """Mean changes of one objective, in its unit; None where nothing is known of it."""

    objective: Objective
    promoted: float | None  # the front's, from search to promoted estimate
    report: float | None  # the front's, from there to the report estimate
    parents: float | None  # from search to report estimate


def shifts(found: Findings) -> list[Shift]:
    """One an objective; none before the front is re-scored."""
    if not found.rescored:
        return []
    return [
        Shift(
            o,
            _change(o, [(e.search, e.promoted) for e in found.front]),
            _change(o, [(e.known, e.report) for e in found.front]),
            _change(o, [(e.search, e.report) for e in found.parents]),
        )
        for o in found.objectives
    ]


def luck(found: Findings, objective: Objective) -> float:
    """By how much the luckiest candidate would look too good if all were equally good.

    The expected largest of n independent errors of a search estimate, by Blom's approximation
    (Statistical Estimates and Transformed Beta-Variables, 1958). Errors that all candidates share
    make it less, so this is the most that luck explains.
    """
    errors = [e.search[objective.name].stderr for e in found.trials if found.eligible(e)]
    if len(errors) < 2:
        return 0.0
    n = len(errors)
    return median(errors) * NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


def words(found: Findings) -> list[str]:
    """What the changes mean, in sentences."""
    known = shifts(found)
    if not known:
        return []
    moves = "; ".join(_moves(s) for s in known)
    sentences = [
        "Who is chosen for a good score owes part of it to luck. Averaged over the front, against "
        f"the search estimates, {moves}. Expect as much of whichever member you choose."
    ]
    bounds = [(s.objective.name, luck(found, s.objective)) for s in known]
    named = [f"{text.number(size)} in {name}" for name, size in bounds if size > 0]
    if named:
        n = sum(map(found.eligible, found.trials))
        sentences.append(
            f"Were all {n} feasible candidates that were not raced out equally good, the luckiest "
            f"would look better than it is, by at most {text.enumerated(named)}."
        )
    return sentences


def _moves(shift: Shift) -> str:
    """`math turned out 0.031 worse with more search documents, then 0.012 worse on …`."""
    steps = []
    if shift.promoted is not None:
        steps.append(f"{_step(shift.objective, shift.promoted)} with more search documents")
    if shift.report is not None:
        steps.append(f"{_step(shift.objective, shift.report)} on the report documents")
    return f"{shift.objective.name} turned out {', then '.join(steps)}"


def _step(objective: Objective, change: float) -> str:
    if not round(change, text.digits(change)):
        return "the same"
    side = "worse" if objective.loss(change) > 0 else "better"
    return f"{text.number(abs(change))} {side}"


def _change(
    objective: Objective, pairs: Sequence[tuple[Estimates, Estimates | None]]
) -> float | None:
    """Mean change of the values; None if no pair is complete."""
    name = objective.name
    moves = [after[name].value - before[name].value for before, after in pairs if after]
    return fmean(moves) if moves else None
