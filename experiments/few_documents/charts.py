"""Line charts over documents a task as small SVG files that read well on white and on black."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#1f83c6", "#d55e00", "#009e73", "#cc79a7", "#8b929b")  # Okabe and Ito's, roughly
INK = "#8b929b"


@dataclass(frozen=True)
class Line:
    """One line: its label, n -> value, and which colour."""

    label: str
    values: Mapping[int, float]
    colour: int


def chart(path: Path, words: str, lines: Sequence[Line]) -> None:
    """Write the chart; x is logarithmic, the labels stand in the chart.

    Args:
        path: an SVG file.
        words: what the y axis is.
        lines: from top to bottom of the legend.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evoaim", "font.size": 11}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                list(line.values),
                list(line.values.values()),
                marker="o",
                markersize=4,
                color=COLOURS[line.colour],
                label=line.label,
            )
        axes.set_xscale("log")
        sizes = sorted({n for line in lines for n in line.values})
        axes.set_xticks(sizes, [str(n) for n in sizes], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("documents a task, of 200", color=INK)
        axes.set_title(words, loc="left", color=INK, fontsize=11)
        axes.tick_params(colors=INK)
        axes.grid(alpha=0.25, color=INK)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK)
        figure.savefig(path, transparent=True, metadata={"Date": None})
