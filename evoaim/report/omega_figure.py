"""AIM's omega along the front: over each objective for few genes, else as a heat map."""

from typing import Any

from evoaim.report.findings import Findings, counted
from evoaim.report.style import CYCLE, FAINT, LAYOUT, Figure, Trace, axis, better, hover, plain
from evoaim.results import Entry
from fitness.types import Objective

MAX_LINES = 3  # genes; more are a heat map
MAX_PANELS = 4  # objectives side by side
OFF = 0.98  # an omega from here on hardly changes a merge
_GUTTER = 0.03  # between panels, as a fraction of the width


def omega_genes(found: Findings) -> list[str]:
    """Names of the omega genes that front members have, in the space's order."""
    names = (g for e in found.front for g in e.genes)
    return [g for g in dict.fromkeys(names) if g == "omega" or g.startswith("omega.")]


def omega_words(found: Findings) -> str:
    """Says it where the front does not use AIM, or hardly; else empty."""
    genes = omega_genes(found)
    omegas = [float(e.genes[g]) for e in found.front for g in genes if g in e.genes]
    if omegas and min(omegas) == 1.0:
        return "AIM is off in all of these merges: every omega is 1."
    off = sum(omega >= OFF for omega in omegas)
    if not omegas or off < 0.9 * len(omegas):
        return ""
    return (
        f"AIM is off or hardly used in these merges: {off} of {len(omegas)} omegas are at least "
        f"{OFF:g}."
    )


def omega_figure(found: Findings) -> Figure | None:
    """Omega genes of the front against the objectives; None where the space has no omega gene."""
    genes = omega_genes(found)
    if not genes:
        return None
    return _lines(found, genes) if len(genes) <= MAX_LINES else _heat_map(found, genes)


def _lines(found: Findings, genes: list[str]) -> Figure:
    shown = found.objectives[:MAX_PANELS]
    width = (1 - _GUTTER * (len(shown) - 1)) / len(shown)
    frame: dict[str, Any] = LAYOUT | {"height": 360}
    data: list[Trace] = []
    for i, o in enumerate(shown):
        n = "" if i == 0 else str(i + 1)
        front = _sorted(found, o)
        for g, color in zip(genes, CYCLE, strict=False):
            texts = [f"{hover(found, e)}<br>{plain(g)} {e.genes.get(g)}" for e in front]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": plain(g),
                    "legendgroup": g,
                    "showlegend": i == 0 and len(genes) > 1,
                    "x": [counted(e, found.split)[o.name].value for e in front],
                    "y": [e.genes.get(g) for e in front],
                    "xaxis": f"x{n}",
                    "yaxis": f"y{n}",
                    "marker": {"color": color, "size": 8},
                    "line": {"color": color, "width": 1},
                    "hoverinfo": "text",
                    "hovertext": texts,
                }
            )
        left = i * (width + _GUTTER)
        frame[f"xaxis{n}"] = axis(better(o)) | {"domain": [left, left + width], "nticks": 6}
        y = axis("omega" if i == 0 else "") | {"range": [-0.04, 1.06], "showticklabels": i == 0}
        frame[f"yaxis{n}"] = y | {"anchor": f"x{n}"}
    off = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "layer": "below"}
    frame["shapes"] = [off | {"line": {"color": FAINT, "width": 1.5, "dash": "dot"}}]
    return {"data": data, "layout": frame}


def _heat_map(found: Findings, genes: list[str]) -> Figure:
    """Genes down, front members across, in the order of the first objective."""
    first = found.objectives[0]
    front = _sorted(found, first)
    scale = {"title": {"text": "omega", "side": "right"}, "thickness": 12, "outlinewidth": 0}
    cells: Trace = {
        "type": "heatmap",
        "x": [str(e.trial) for e in front],
        "y": [plain(g) for g in genes],
        "z": [[e.genes.get(g) for e in front] for g in genes],
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "colorscale": "Cividis",
        "colorbar": scale | {"tickvals": [0, 0.5, 1], "ticktext": ["0", "0.5", "1 (off)"]},
        "hoverinfo": "text",
        "hovertext": [[hover(found, e) for e in front]] * len(genes),
    }
    if len(front) <= 16:  # columns wide enough for the figures
        cells |= {"texttemplate": "%{z:.2f}", "textfont": {"size": 12}}
    frame = LAYOUT | {
        "height": 100 + 28 * len(genes),
        "margin": LAYOUT["margin"] | {"t": 16},
        "xaxis": axis(f"trials of the front, by rising {first.name}") | _CATEGORIES,
        "yaxis": axis("") | _CATEGORIES | {"autorange": "reversed"},
    }
    return {"data": [cells], "layout": frame}


_CATEGORIES = {"type": "category", "nticks": 0, "showgrid": False}


def _sorted(found: Findings, objective: Objective) -> list[Entry]:
    return sorted(found.front, key=lambda e: counted(e, found.split)[objective.name].value)
