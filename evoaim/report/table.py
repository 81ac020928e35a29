"""The rows of the report's table: front and parents, each objective on both document sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evoaim.report import text
from evoaim.report.findings import Findings, counted, mean, undominated
from evoaim.results import Entry, Estimates
from fitness.types import Estimate
from search_spaces import strict_yaml

MAX_ROWS = 200  # each comes with its recipe


@dataclass(frozen=True)
class Cell:
    """One quantity of one row, as text."""

    value: str  # what counts most
    stderr: str
    below: tuple[str, ...]  # what else is known, one a label of the row
    best: bool  # of its column


@dataclass(frozen=True)
class Row:
    """A front member or a parent."""

    name: str
    labels: tuple[str, ...]  # of the lines below each value
    cells: tuple[Cell, ...]
    method: str
    recipe: str  # YAML; empty if there is none
    dominated: bool  # by a parent or another member, where it counts


def columns(found: Findings) -> list[str]:
    """Titles of the cells: the mean where there is one, the objectives, what was watched."""
    names = [o.name if o.goal == "maximize" else f"{o.name} ↓" for o in found.objectives]
    names += [f"{n} (watched)" for n in found.watched]
    return ["mean", *names] if _has_mean(found) else names


def listed(found: Findings, entries: Sequence[Entry]) -> list[Entry]:
    """The best mean (or else the best first objective) first, at most `MAX_ROWS`."""

    def rank(e: Entry) -> float:
        first = _quantities(found, counted(e, found.split))[0]
        return _sign(found, 0) * (first.value if first else 0.0)

    return sorted(entries, key=rank)[:MAX_ROWS]


def rows(found: Findings, entries: Sequence[Entry]) -> list[Row]:
    """One row an entry."""
    if not entries:
        return []
    kept = undominated(found)
    everyone = [_quantities(found, counted(e, found.split)) for e in (*found.front, *found.parents)]
    best = [_top(found, i, list(column)) for i, column in enumerate(zip(*everyone, strict=True))]
    made = []
    for e in entries:
        now = _quantities(found, counted(e, found.split))
        below = _below(found, e)
        others = [
            ["–" if q is None else text.WRITTEN[level](q) for q in _quantities(found, known)]
            for level, known in below.items()
        ]
        cells = tuple(
            Cell(
                text.number(n.value) if n else "–",
                text.stderr(n) if n and (n.stderr or found.split == "report") else "",
                tuple(other[i] for other in others),
                n is not None and n.value == best[i],
            )
            for i, n in enumerate(now)
        )
        merge = e.recipe if e.trial is not None else {}  # a parent's says nothing
        recipe = strict_yaml.dump(dict(merge)) if merge else ""
        dominated = e.trial is not None and e.name not in kept
        method = str(merge.get("merge_method", ""))
        made.append(Row(e.name, tuple(below), cells, method, recipe, dominated))
    return made


def failures(reasons: Mapping[int, str]) -> list[tuple[str, list[int]]]:
    """Failed trials by the first line of their reason, the most frequent first."""
    groups: dict[str, list[int]] = {}
    for number, reason in reasons.items():
        first = reason.strip().splitlines()[0] if reason.strip() else "no reason recorded"
        groups.setdefault(first, []).append(number)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _below(found: Findings, entry: Entry) -> dict[str, Estimates]:
    """What else is known of an entry once the report estimates count."""
    if not found.rescored:
        return {}
    promoted = {} if entry.promoted is None else {"promoted": entry.promoted}
    return {**promoted, "search": entry.search}


def _has_mean(found: Findings) -> bool:
    return found.goal is not None and len(found.objectives) > 1


def _quantities(found: Findings, estimates: Estimates) -> list[Estimate | None]:
    """In the order of `columns`; None where something watched is not known."""
    optimized: list[Estimate | None] = [estimates[o.name] for o in found.objectives]
    watched = [estimates.get(n) for n in found.watched]
    means = [mean(found, estimates)] if _has_mean(found) else []
    return [*means, *optimized, *watched]


def _sign(found: Findings, column: int) -> int:
    """+1 where lower is better in a column, -1 where higher is, 0 where neither."""
    goals = [o.goal for o in found.objectives]
    if _has_mean(found):
        goals = [goals[0], *goals]
    if column >= len(goals):
        return 0
    return 1 if goals[column] == "minimize" else -1


def _top(found: Findings, column: int, known: Sequence[Estimate | None]) -> float | None:
    """The best value of a column; None where none is better than another."""
    sign = _sign(found, column)
    return sign * min(sign * e.value for e in known if e is not None) if sign else None
