"""The front as a chart: every pair of objectives, parents and candidates, search against report."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evoaim.report.findings import Findings, chosen, counted, drawn
from evoaim.report.labels import place
from evoaim.report.style import (
    FRONT,
    LAYOUT,
    PARENT,
    Figure,
    Trace,
    axis,
    bars,
    better,
    hover,
    kinds,
    plain,
    span,
)
from evoaim.results import Entry, Estimates
from fitness.types import Objective

MAX_NUMBERS = 40  # front members; of more, no number can be made out
MAX_OBJECTIVES = 6  # in one matrix; of more, the first ones are drawn
_PAGE = 960  # pixels: the width that labels are placed for
_MARK = 8  # pixels
_GUTTER = 0.03  # between panels, as a fraction of the width


@dataclass(frozen=True)
class _Panel:
    """One pair of objectives and where it stands in the matrix."""

    x: Objective
    y: Objective
    number: int  # 1 is the first
    column: int
    row: int  # from the top

    @property
    def axes(self) -> dict[str, str]:
        n = "" if self.number == 1 else str(self.number)
        return {"xaxis": f"x{n}", "yaxis": f"y{n}"}


def front_figure(found: Findings) -> Figure | None:
    """All pairs of two to six objectives, as the lower triangle of a matrix; None without a front.

    Filled marks are the estimates that count, with one standard error; where the front is
    re-scored, a hollow mark and a line show the estimate on search documents that it came from.
    """
    shown = found.objectives[:MAX_OBJECTIVES]
    if not found.front or len(shown) < 2:
        return None
    side = len(shown) - 1
    panels = [
        _Panel(shown[c], shown[r], n, c, r - 1)
        for n, (c, r) in enumerate(combinations(range(len(shown)), 2), start=1)
    ]
    ranges = {o.name: _range(found, o) for o in shown}
    height = 500 if side == 1 else min(330, 1000 // side) * side + 100
    frame: dict[str, Any] = LAYOUT | {"height": height}
    data: list[Trace] = []
    for p in panels:
        size = (_PAGE / side * 0.92, (height - 100) / side * 0.92)
        data += _traces(found, p, ranges, size)
        frame |= _axes(p, side, ranges)
    if side > 1:  # the empty corner above the triangle
        frame["legend"] = {"x": 1.0, "y": 1.0, "xanchor": "right", "yanchor": "top"}
    return {"data": data, "layout": frame}


def background(found: Findings) -> Sequence[Entry]:
    """The candidates off the front that each panel shows."""
    k = min(len(found.objectives), MAX_OBJECTIVES)
    return drawn(found.others, k * (k - 1) // 2)


def numbered(found: Findings) -> bool:
    """Whether the front's marks have their trials' numbers beside them."""
    return len(found.front) <= MAX_NUMBERS


def outside(found: Findings) -> int:
    """How many candidates lie outside the drawn ranges; 0 where nothing is drawn."""
    if not found.front:
        return 0
    ranges = [(o.name, *_range(found, o)) for o in found.objectives[:MAX_OBJECTIVES]]
    return sum(
        any(not low <= e.search[n].value <= high for n, low, high in ranges) for e in found.others
    )


def _traces(
    found: Findings, p: _Panel, ranges: dict[str, tuple[float, float]], size: tuple[float, float]
) -> list[Trace]:
    made = [
        _points(found, p, members, marker) | {"name": name, "legendrank": 4}
        for name, members, marker in kinds(found, background(found))
    ]
    for entries, color in ((found.front, FRONT), (found.parents, PARENT)):
        if found.rescored and entries:
            made += _shifts(found, p, entries, color)
    front = _points(found, p, found.front, {"color": FRONT, "size": _MARK})
    values = "report estimate" if found.rescored else "search estimate, not re-scored yet"
    made.append(
        front
        | _errors(found, p, found.front, FRONT)
        | {"name": f"front ({values})", "legendrank": 1}
    )
    if found.parents:
        parents = _points(found, p, found.parents, {"color": PARENT, "size": _MARK + 2})
        parents["marker"]["symbol"] = "diamond"
        made.append(
            parents | _errors(found, p, found.parents, PARENT) | {"name": "parent", "legendrank": 3}
        )
    made.append(_names(found, p, ranges, size))
    for t in made:
        t |= p.axes | {"legendgroup": t["name"]}
        t["showlegend"] = t.get("showlegend", True) and p.number == 1 and bool(t["x"])
    return made


def _points(found: Findings, p: _Panel, entries: Sequence[Entry], marker: dict[str, Any]) -> Trace:
    at = [(e.report if found.rescored else None) or e.search for e in entries]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [e[p.x.name].value for e in at],
        "y": [e[p.y.name].value for e in at],
        "marker": marker,
        "hoverinfo": "text",
        "hovertext": [hover(found, e) for e in entries],
    }


def _errors(found: Findings, p: _Panel, entries: Sequence[Entry], color: str) -> Trace:
    at = [counted(e, found.split) for e in entries]
    faded = f"rgba({int(color[1:3], 16)},{int(color[3:5], 16)},{int(color[5:], 16)},0.45)"
    return {
        "error_x": bars([e[p.x.name] for e in at], faded),
        "error_y": bars([e[p.y.name] for e in at], faded),
    }


def _shifts(found: Findings, p: _Panel, entries: Sequence[Entry], color: str) -> list[Trace]:
    """From the best estimate on search documents, a hollow mark, to the report estimate."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for e in entries:
        if e.report is not None:
            xs += [e.known[p.x.name].value, e.report[p.x.name].value, None]
            ys += [e.known[p.y.name].value, e.report[p.y.name].value, None]
    symbol = "circle-open" if color == FRONT else "diamond-open"
    line: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "shift",
        "x": xs,
        "y": ys,
        "line": {"color": color, "width": 1},
        "opacity": 0.4,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    marks = line | {
        "mode": "markers",
        "name": f"its {'promoted' if found.promoted else 'search'} estimate",
        "legendrank": 2,
        "x": xs[::3],
        "y": ys[::3],
        "marker": {"color": color, "size": 6, "symbol": symbol},
        "opacity": 0.7,
        "showlegend": color == FRONT,
    }
    return [line, marks]


def _names(
    found: Findings, p: _Panel, ranges: dict[str, tuple[float, float]], size: tuple[float, float]
) -> Trace:
    """The names of the parents and of the trial that the report leads with, others' numbers."""

    def pixel(at: Estimates) -> tuple[float, float]:
        (left, right), (low, high) = ranges[p.x.name], ranges[p.y.name]
        across = (at[p.x.name].value - left) / (right - left)
        return across * size[0], (high - at[p.y.name].value) / (high - low) * size[1]

    pick = chosen(found)
    rest = [e for e in found.front if e is not pick]
    named = [*found.parents, *([pick] if pick else [])]
    names = [e.name if len(e.name) <= 24 else f"{e.name[:23]}…" for e in named]
    look = [(PARENT, 13)] * len(found.parents) + [(FRONT, 13)] * bool(pick)
    if numbered(found):
        named += rest
        names += [str(e.trial) for e in rest]
        look += [(FRONT, 11)] * len(rest)
    values = [counted(e, found.split) for e in named]
    others = [] if numbered(found) else [counted(e, found.split) for e in rest]
    others += [e.known for e in (*found.parents, *found.front) if found.rescored]
    positions = place(names, list(map(pixel, values)), list(map(pixel, others)), size)
    return {
        "type": "scatter",
        "mode": "markers+text",  # the marks, not seen, keep the text off the real ones
        "name": "names",
        "marker": {"size": 13, "opacity": 0},
        "x": [v[p.x.name].value for v in values],
        "y": [v[p.y.name].value for v in values],
        "text": [plain(n) if at else "" for n, at in zip(names, positions, strict=True)],
        "textposition": [at or "top center" for at in positions],
        "textfont": {"color": [c for c, _ in look], "size": [s for _, s in look]},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _range(found: Findings, o: Objective) -> tuple[float, float]:
    """What an axis shows: the front and the parents with errors, and the candidates near them."""
    core = []
    for m in (*found.front, *found.parents):
        e = counted(m, found.split)[o.name]
        core += [e.value - e.stderr, e.value + e.stderr, m.known[o.name].value]
    return span(core, [e.search[o.name].value for e in found.others if found.eligible(e)])


def _axes(p: _Panel, side: int, ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """The two axes of a panel; titles and figures only along the matrix's left and bottom."""
    n = "" if p.number == 1 else str(p.number)
    width = (1 - _GUTTER * (side - 1)) / side
    left, top = p.column * (width + _GUTTER), 1 - p.row * (width + _GUTTER)
    edge = {"x": p.row == side - 1, "y": p.column == 0}
    made = {}
    for letter, o, domain in (
        ("x", p.x, [left, left + width]),
        ("y", p.y, [max(top - width, 0.0), top]),
    ):
        made[f"{letter}axis{n}"] = axis(better(o) if edge[letter] else "") | {
            "domain": domain,
            "anchor": f"{'y' if letter == 'x' else 'x'}{n}",
            "range": list(ranges[o.name]),
            "showticklabels": edge[letter],
            "nticks": 7 if side < 3 else 5,
        }
    return made
