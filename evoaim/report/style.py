"""Colours, axes and hover texts of the charts; light and dark are left to the page's CSS."""

import html
from collections.abc import Sequence
from typing import Any

from evoaim.report import text
from evoaim.report.findings import Findings
from evoaim.results import Entry
from fitness.types import Estimate, Objective

Figure = dict[str, Any]  # plotly's {"data": [...], "layout": {...}}
Trace = dict[str, Any]

# Okabe and Ito's colour-blind-safe colours, those that can be read on white and on black
FRONT, PARENT, FAINT = "#1f83c6", "#d55e00", "#8b929b"
CYCLE = (FRONT, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")

LAYOUT: dict[str, Any] = {
    "autosize": True,
    "margin": {"l": 64, "r": 24, "t": 40, "b": 56},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
    "hovermode": "closest",
    "hoverlabel": {"align": "left"},
    "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "xanchor": "left"},
}


def plain(name: str) -> str:
    """Text that plotly shows as it is; it would read HTML."""
    return html.escape(name, quote=False)


def axis(words: str) -> dict[str, Any]:
    """An axis with that title, shown as it is."""
    title = {"text": plain(words), "standoff": 8}
    return {"title": title, "zeroline": False, "showline": False, "nticks": 7, "automargin": True}


def better(objective: Objective) -> str:
    """An objective with the direction that is better, for an axis."""
    return objective.name if objective.goal == "maximize" else f"{objective.name} (lower is better)"


def hover(found: Findings, entry: Entry) -> str:
    """Name, standing and values of a trial or parent, one line a quantity."""
    lines = [f"<b>{plain(entry.name)}</b>{_standing(found, entry)}"]
    for name in [*(o.name for o in found.objectives), *found.watched]:
        levels = {"report": entry.report, "promoted": entry.promoted, "search": entry.search}
        known = [
            f"{text.WRITTEN[level](e[name])}{f' ({level})' if entry.report else ''}"
            for level, e in levels.items()
            if e and name in e
        ]
        lines.append(f"{plain(name)} {', '.join(known) or '–'}")
    run = sum(e.documents for e in entry.search.values())
    return "<br>".join([*lines, *([f"search: {text.plural(run, 'document')}"] if run else [])])


def kinds(
    found: Findings, trials: Sequence[Entry]
) -> list[tuple[str, list[Entry], dict[str, Any]]]:
    """Trials by how they ended, with the legend's name and the marker of each kind."""
    dot = {"color": FAINT, "size": 5}
    sorts: dict[str, tuple[list[Entry], dict[str, Any]]] = {
        "candidate": ([], dot | {"opacity": 0.5}),
        "infeasible": ([], dot | {"opacity": 0.7, "size": 6, "symbol": "x-thin-open"}),
        "raced out": ([], dot | {"opacity": 0.22}),
    }
    for e in trials:
        raced, broken = e.trial in found.raced, e.trial in found.violations
        name = "raced out" if raced else "infeasible" if broken else "candidate"
        sorts[name][0].append(e)
    return [(name, members, marker) for name, (members, marker) in sorts.items() if members]


def _standing(found: Findings, entry: Entry) -> str:
    if entry.trial in found.raced:
        return ", raced out"
    violation = found.violations.get(entry.trial, 0.0) if entry.trial is not None else 0.0
    return f", misses the constraints by {text.bound(violation)}" if violation else ""


def bars(estimates: Sequence[Estimate], color: str) -> dict[str, Any]:
    """Error bars of one standard error."""
    size = [e.stderr for e in estimates]
    return {"type": "data", "array": size, "color": color, "thickness": 1, "width": 0}


def span(core: Sequence[float], rest: Sequence[float]) -> tuple[float, float]:
    """A range that shows all of `core`, and of `rest` what lies within three fifths of its span.

    One collapsed merge would otherwise squeeze everything else into a corner.
    """
    low, high = min(core), max(core)
    size = (high - low) or 0.1 * abs(high) or 0.1
    near = [v for v in rest if low - 0.6 * size <= v <= high + 0.6 * size]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * ((high - low) or size)
    return low - margin, high + margin
