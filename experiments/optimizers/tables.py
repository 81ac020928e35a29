"""Makes README.md beside it and the charts of what compare.py has written.

python experiments/optimizers/tables.py
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
COLOURS = ("#1f83c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#8b929b")
INK = "#8b929b"
SHOWN = {  # in the charts; the last one in grey
    "hypervolume": ("nsga2_delta", "m2n2_delta", "gp", "tpe", "nsga2", "random"),
    "mean": ("cma_es", "de", "pso", "ga", "tpe", "random"),
}
WORDS = {
    "hypervolume": "hypervolume of the front on the report documents",
    "mean": "best merge's mean accuracy on the report documents",
}

Table = dict[str, dict[int, NDArray[np.float64]]]  # kind -> candidates -> (n_seeds,)


def read(what: str) -> Table:
    """One figure of all searches, by optimizer and candidates, seed by seed from 0."""
    lines = [json.loads(x) for x in (HERE / "results.jsonl").read_text().splitlines()]
    by_kind: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for r in lines:
        by_kind[r["kind"]][r["seed"]] = {n: at[what] for n, at in r["at"].items()}
    at = list(next(iter(next(iter(by_kind.values())).values())))
    return {
        kind: {int(n): np.array([found[s][n] for s in sorted(found)]) for n in at}
        for kind, found in by_kind.items()
    }


def half(values: NDArray[np.float64]) -> float:
    """Half of the 95% interval of the mean: Student's."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def rows(what: str) -> Iterator[str]:
    """The Markdown table of one figure, the best on top."""
    table = read(what)
    at = list(next(iter(table.values())))
    last = at[-1]
    quartile = float(np.quantile(table["random"][last], 0.75))
    yield f"## {WORDS[what].capitalize()}\n"
    yield f"Means over the seeds, ± half of the 95% interval; after {last} candidates"
    yield f"random search's upper quartile is {quartile:.4f}.\n"
    head = " | ".join(f"after {n}" for n in at)
    yield f"| optimizer | seeds | {head} | median | minus random | above its upper quartile |"
    yield "|---" * (len(at) + 5) + "|"
    for kind in sorted(table, key=lambda k: -table[k][last].mean()):
        values = table[kind]
        cells = [f"{values[n].mean():.4f}" for n in at[:-1]]
        cells.append(f"{values[last].mean():.4f} ± {half(values[last]):.4f}")
        median = float(np.median(values[last]))
        gap = values[last] - table["random"][last][: len(values[last])]
        against = "" if kind == "random" else f"{gap.mean():+.4f} ± {half(gap):.4f}"
        above = "" if kind == "random" else "yes" if median > quartile else "no"
        row = [kind, str(len(gap)), *cells, f"{median:.4f}", against, above]
        yield f"| {' | '.join(row)} |"
    yield ""


def costs() -> Iterator[str]:
    """Milliseconds of the optimizers themselves."""
    lines = [json.loads(x) for x in (HERE / "results.jsonl").read_text().splitlines()]
    own = defaultdict(list)
    for r in lines:
        own[r["kind"]].append(r["own_ms"])
    yield "## What asking and telling costs\n"
    yield "Milliseconds a candidate, median over the searches, on a busy machine:"
    yield ", ".join(f"{k} {np.median(v):.1f}" for k, v in sorted(own.items())) + ".\n"


def chart(what: str, path: Path) -> None:
    """Anytime curves with 95% intervals."""
    table = read(what)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evoaim", "font.size": 11}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        kinds = [k for k in SHOWN[what] if k in table]
        colours = [*COLOURS[: len(kinds) - 1], COLOURS[-1]]
        for i, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
            at = np.array(list(table[kind]), float) + 1.4 * (i - len(kinds) / 2)  # side by side
            means = [found.mean() for found in table[kind].values()]
            wide = [half(found) for found in table[kind].values()]
            axes.errorbar(
                at, means, wide, marker="o", markersize=4, elinewidth=1, color=colour, label=kind
            )
        axes.set_xticks(list(table[kinds[0]]))
        axes.set_xlabel("candidates", color=INK)
        axes.set_title(WORDS[what], loc="left", color=INK, fontsize=11)
        axes.tick_params(colors=INK)
        axes.grid(alpha=0.25, color=INK)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    text = ["# Every optimizer on the demo zoo\n", (HERE / "about.md").read_text()]
    text += [*rows("hypervolume"), *rows("mean"), *costs()]
    (HERE / "README.md").write_text("\n".join(text))
    for what in WORDS:
        chart(what, DOCS / f"optimizers_{what}.svg")


if __name__ == "__main__":
    main()
