"""The report's opening sentences: what was found, how sure that is, and what does not hold."""

import math

from evoaim.report import text
from evoaim.report.findings import Findings, best, chosen, counted, mean, undominated, volumes
from evoaim.report.provenance import Tally
from fitness.types import Estimate

ON = {"report": "the report documents", "search": "the search documents"}
SURE = 2.0  # standard errors from which a difference is called one


def verdict(found: Findings) -> str:
    """The one sentence to remember."""
    if not found.front:
        return _infeasible(found) if found.violations else "No candidate has finished yet."
    if not found.parents:
        return "The parents are not scored yet, so there is nothing to compare the front with."
    pick = chosen(found)
    if pick is None:
        return _by_volume(found)
    parent = best(found, found.parents, found.split)
    ours, theirs = (mean(found, counted(e, found.split)) for e in (pick, parent))
    written = text.WRITTEN[found.split]
    figures = (
        f"on {ON[found.split]} its {_what(found)} is {written(ours)}, "
        f"that of the best parent ({parent.name}) {written(theirs)}."
    )
    name = _capital(pick.name)
    lead = _lead(found, ours, theirs)
    if not found.rescored:
        return f"{name} {'leads' if lead > 0 else 'is the best merge'} so far: {figures}"
    if lead > SURE:
        return f"{name} beats every parent: {figures}"
    if lead > 0:
        return f"{name} is ahead of every parent, but within {SURE:g} standard errors: {figures}"
    top = best(found, found.front, "report")
    if _lead(found, mean(found, counted(top, "report")), theirs) > 0:
        return f"{name}, the best by its search scores, does not beat the parents: {figures}"
    return f"No merge beats the parents. {name} is the best by its search scores: {figures}"


def remarks(found: Findings, tally: Tally) -> list[str]:
    """What else a reader must know before the figures."""
    sentences = [f"{_counts(found, tally)} {_cost(tally)}".strip()]
    pick = chosen(found)
    if pick is not None and found.rescored:
        top = best(found, found.front, "report")
        if top.name != pick.name:
            e = mean(found, counted(top, "report"))
            sentences.append(
                f"{_capital(top.name)} has the best {_what(found)} on the report documents, "
                f"{text.estimate(e)}; choosing it by these same documents flatters it."
            )
    if found.front and not found.rescored:
        sentences.append(
            "The front is not re-scored yet: every figure here is a search estimate, from the "
            "documents that the search has optimised for, and therefore optimistic."
        )
    return sentences


def _infeasible(found: Findings) -> str:
    """The verdict where no candidate keeps the constraints."""
    nearest = min(found.violations, key=lambda n: found.violations[n])
    rules = text.enumerated(found.keep) if len(found.keep) <= 2 else ""
    return (
        f"No candidate keeps the constraints{f' ({rules})' * bool(rules)}: the nearest, trial "
        f"{nearest}, misses by {text.bound(found.violations[nearest])}."
    )


def _counts(found: Findings, tally: Tally) -> str:
    sentence = f"{text.plural(len(found.trials), 'candidate')} evaluated"
    some = [f"{len(found.raced)} of them raced out"] if found.raced else []
    broken = len(found.violations)
    some += [f"{broken} infeasible"] if broken else []
    some += [f"{tally.failed} more failed"] if tally.failed else []
    sentence = ", ".join([sentence, *some])
    if not found.front or len(found.objectives) == 1:
        return f"{sentence}."
    if found.promoted:
        sentence += f"; {len(found.front)} of {text.plural(tally.finalists, 'finalist')} on the"
        sentence += " front by more search documents"
    else:
        sentence += f"; {len(found.front)} on the front by search scores"
    if found.rescored:
        n = len(undominated(found))
        sentence += (
            f", {n or 'none'} of these undominated by each other and the parents when re-scored"
        )
    return f"{sentence}."


def _cost(tally: Tally) -> str:
    """How many documents the search ran, and how many it was spared."""
    if not tally.run:
        return ""
    ran = f"The search ran {tally.run:,} documents"
    if tally.run >= tally.whole:
        return f"{ran} in all."
    part = text.share(tally.run, tally.whole)
    return (
        f"{ran}, {part}{' times' if part[0].isdigit() else ' of'} the {tally.whole:,} that it "
        "takes to score every candidate and parent on all search documents."
    )


def _by_volume(found: Findings) -> str:
    """The verdict where goals differ, so that values have no mean."""
    kept = f"{len(undominated(found))} of {text.plural(len(found.front), 'front member')}"
    where = ON[found.split]
    known = volumes(found)  # the first is by the documents that count
    if not known:
        return f"On {where} {kept} stay undominated, by each other and by the parents."
    v = known[0]
    if v.together <= v.parents:
        return (
            f"No merge reaches beyond the parents: on {where} the hypervolume stays at "
            f"{v.parents:.4g}."
        )
    return (
        f"The front reaches beyond the parents: on {where} the hypervolume grows from "
        f"{v.parents:.4g} to {v.together:.4g}, and {kept} stay undominated."
    )


def _lead(found: Findings, ours: Estimate, theirs: Estimate) -> float:
    """How many standard errors ours is better; conservative, as if documents were not shared."""
    sign = -1 if found.goal == "minimize" else 1
    gain = sign * (ours.value - theirs.value)
    error = math.hypot(ours.stderr, theirs.stderr)
    return gain / error if error > 0 else math.copysign(math.inf, gain) if gain else 0.0


def _what(found: Findings) -> str:
    """The quantity that candidates are compared by."""
    names = [o.name for o in found.objectives]
    what = names[0]
    if len(names) > 1:
        what = f"mean of {', '.join(names[:-1])} and {names[-1]}"
    if len(names) > 3:
        what = f"mean of the {len(names)} objectives"
    return f"{what} (lower is better)" if found.goal == "minimize" else what


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
