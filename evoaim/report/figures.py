"""The report's charts over candidates: hypervolume, or for one objective the best value."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from evoaim.report.findings import Findings, counted, drawn, progress
from evoaim.report.labels import apart
from evoaim.report.style import (
    FAINT,
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
from evoaim.results import Entry

_LINE = 17.0  # pixels between two lines of text
_WIDE = 0.2  # of the chart: a band from here on holds its own name
_CANDIDATES = "candidates, in the order they were proposed"


def volume_figure(found: Findings, seeds: int) -> Figure | None:
    """Hypervolume of parents and trials so far, as the search compares them.

    Args:
        found: what the run has found.
        seeds: how many of the first trials were seed recipes; 0: not known.
    """
    curve = progress(found)
    if len(curve) < 2:
        return None
    numbers = [e.trial or 0 for e in found.trials]
    steps: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": [-1, *numbers],
        "y": curve,
        "line": {"shape": "hv", "color": FRONT, "width": 2},
        "hovertemplate": "trial %{x}: %{y:.4g}<extra></extra>",
        "showlegend": False,
    }
    frame = _frame(numbers[-1], "hypervolume", span(curve, []), seeds)
    frame["margin"] |= {"t": 12}  # no legend
    _levels(frame, {"parents alone": curve[0]})
    return {"data": [steps], "layout": frame}


def best_figure(found: Findings, seeds: int) -> Figure | None:
    """For one objective: every candidate, the best so far, the parents, the winner re-scored."""
    if not found.trials:
        return None
    (o,) = found.objectives
    numbers = [e.trial or 0 for e in found.trials]
    values = [e.search[o.name].value for e in found.trials]
    able = [e for e in found.trials if found.eligible(e)]

    def better_of(a: Entry, b: Entry) -> Entry:
        return min(a, b, key=lambda e: o.loss(e.search[o.name].ranked))

    so_far = [e.search[o.name].value for e in accumulate(able, better_of)]
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [e.trial for e in kind],
            "y": [e.search[o.name].value for e in kind],
            "marker": marker,
            "hoverinfo": "text",
            "hovertext": [hover(found, e) for e in kind],
        }
        for name, kind, marker in kinds(found, drawn(found.trials, 1))
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far (search estimate)",
            "x": [e.trial for e in able],
            "y": so_far,
            "line": {"shape": "hv", "color": FRONT, "width": 2},
            "hoverinfo": "skip",
        }
    )
    core = so_far[-1:] or values
    if found.rescored:
        winners = [e.report[o.name] for e in found.front if e.report]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "best, re-scored on the report documents",
                "x": [e.trial for e in found.front],
                "y": [w.value for w in winners],
                "error_y": bars(winners, FRONT),
                "marker": {"color": FRONT, "size": 9},
                "hoverinfo": "text",
                "hovertext": [hover(found, e) for e in found.front],
            }
        )
        core += [w.value + side * w.stderr for w in winners for side in (-1, 1)]
    levels = {p.name: (counted(p, found.split) or p.search)[o.name].value for p in found.parents}
    frame = _frame(numbers[-1], better(o), span([*core, *levels.values()], values), seeds)
    _levels(frame, levels)
    return {"data": data, "layout": frame}


def _frame(last: int, words: str, limits: tuple[float, float], seeds: int) -> dict[str, Any]:
    """The layout of a chart over candidates, the seed recipes' stretch shaded."""
    frame: dict[str, Any] = LAYOUT | {
        "height": 340,
        "margin": LAYOUT["margin"] | {"r": 110, "t": 36},
        "xaxis": axis(_CANDIDATES) | {"range": [-1, last + 1], "showgrid": False},
        "yaxis": axis(words) | {"range": list(limits)},
        "shapes": [],
        "annotations": [],
    }
    if seeds:
        end = min(seeds, last + 1) - 0.5
        band = {"x0": -1, "x1": end, "y0": 0, "y1": 1, "yref": "paper"}
        look = {"fillcolor": FAINT, "opacity": 0.14, "line": {"width": 0}, "layer": "below"}
        frame["shapes"].append({"type": "rect", **band, **look})
        inside = end + 1 >= _WIDE * (last + 2)
        place = {"x": -1 if inside else end, "xanchor": "left", "y": 1, "yanchor": "top"}
        words = "seed recipes" if inside else "\N{LEFTWARDS ARROW} seed recipes"
        frame["annotations"].append({**place, "yref": "paper", **_words(words, FAINT)})
    return frame


def _levels(frame: dict[str, Any], levels: Mapping[str, float]) -> None:
    """Add a dotted line for each level and its name at the right end, no two names overlapping."""
    low, high = frame["yaxis"]["range"]
    names = sorted(levels, key=lambda n: levels[n])
    inner = frame["height"] - frame["margin"]["t"] - frame["margin"]["b"]
    heights = apart([(levels[n] - low) / (high - low) for n in names], _LINE / inner)
    for name, height in zip(names, heights, strict=True):
        look = {"color": PARENT, "width": 1.5, "dash": "dot"}
        ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": levels[name], "y1": levels[name]}
        frame["shapes"].append({"type": "line", "line": look, **ends})
        place = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 6, "yref": "paper"}
        frame["annotations"].append(
            {"y": height, "yanchor": "middle", **place, **_words(name, PARENT)}
        )


def _words(name: str, color: str) -> dict[str, Any]:
    return {"text": plain(name), "font": {"color": color}, "showarrow": False}
