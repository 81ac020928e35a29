"""The rows of the report's table: front and parents, each objective on both document sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evoaim.report import text
from evoaim.report.findings import Findings, counted, mean, undominated
from evoaim.results import Entry, Estimates
from fitness.types import Estimate
from search_spaces import strict_yaml


@dataclass(frozen=True)
class Cell:
    """One quantity of one row, as text."""

    value: str
    stderr: str
    search: str  # with its error; empty where `value` is the search estimate itself
    best: bool  # of its column


@dataclass(frozen=True)
class Row:
    """A front member or a parent."""

    name: str
    cells: tuple[Cell, ...]
    method: str
    recipe: str  # YAML; empty if there is none
    dominated: bool  # by a parent or another member, where it counts


def columns(found: Findings) -> list[str]:
    """Titles of the cells: the mean where there is one, then the objectives."""
    names = [o.name if o.goal == "maximize" else f"{o.name} ↓" for o in found.objectives]
    return ["mean", *names] if _has_mean(found) else names


def rows(found: Findings, entries: Sequence[Entry]) -> list[Row]:
    """One row an entry, the best mean (or else the best first objective) first."""
    if not entries:
        return []
    kept = undominated(found)
    everyone = [_quantities(found, counted(e, found.split)) for e in (*found.front, *found.parents)]
    best = [_top(found, i, [q[i].value for q in everyone]) for i in range(len(everyone[0]))]
    keyed = []
    for e in entries:
        now = _quantities(found, counted(e, found.split))
        before = _quantities(found, e.search)
        cells = tuple(
            Cell(
                text.number(n.value),
                text.stderr(n),
                text.estimate(b) if found.rescored else "",
                n.value == top,
            )
            for n, b, top in zip(now, before, best, strict=True)
        )
        merge = e.recipe if e.trial is not None else {}  # a parent's says nothing
        recipe = strict_yaml.dump(dict(merge)) if merge else ""
        dominated = e.trial is not None and e.name not in kept
        row = Row(e.name, cells, str(merge.get("merge_method", "")), recipe, dominated)
        keyed.append((_sign(found, 0) * now[0].value, row))
    return [row for _, row in sorted(keyed, key=lambda pair: pair[0])]


def failures(reasons: Mapping[int, str]) -> list[tuple[str, list[int]]]:
    """Failed trials by the first line of their reason, the most frequent first."""
    groups: dict[str, list[int]] = {}
    for number, reason in reasons.items():
        first = reason.strip().splitlines()[0] if reason.strip() else "no reason recorded"
        groups.setdefault(first, []).append(number)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _has_mean(found: Findings) -> bool:
    return found.goal is not None and len(found.objectives) > 1


def _quantities(found: Findings, estimates: Estimates) -> list[Estimate]:
    values = [estimates[o.name] for o in found.objectives]
    return [mean(found, estimates), *values] if _has_mean(found) else values


def _sign(found: Findings, column: int) -> int:
    """+1 where lower is better in a column."""
    goals = [o.goal for o in found.objectives]
    if _has_mean(found):
        goals = [goals[0], *goals]
    return 1 if goals[column] == "minimize" else -1


def _top(found: Findings, column: int, values: Sequence[float]) -> float:
    sign = _sign(found, column)
    return sign * min(sign * v for v in values)
