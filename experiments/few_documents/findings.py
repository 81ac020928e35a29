"""The study's figures as Markdown tables and as charts, from its CSV files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from charts import Line, chart
from rows import Row, mean, read_rows
from tables import show

TWICE = "random, 2n"
SELECTORS = ["random", "stratified", "difficulty", "disagreement", "anchors", "irt_anchors"]
ESTIMATORS = ["sample_mean", "stratified", "greg", "p_irt", "gp_irt", "mp_irt", "gmp_irt"]
DOCS = Path("docs")


def write(folder: Path, names: Sequence[str]) -> None:
    """`estimators.md` of all populations and the two charts of the first."""
    text = []
    for name in names:
        rows = read_rows(folder / f"{name}.csv")
        text += [f"## {name}\n"]
        for references in sorted({r.references for r in rows}):
            text += _tables([r for r in rows if r.references == references], references)
    (folder / "estimators.md").write_text("\n".join(text), encoding="utf-8")
    rows = read_rows(folder / f"{names[0]}.csv")
    few, many = min(r.references for r in rows), max(r.references for r in rows)
    _charts(
        [r for r in rows if r.references == few], [r for r in rows if r.references == many], many
    )


def _tables(rows: Sequence[Row], references: int) -> list[str]:
    ranks = [(s, e) for s in SELECTORS for e in ("sample_mean", "greg")]
    values = [(s, e) for s in SELECTORS for e in ESTIMATORS]

    def rank(*line: str) -> Callable[[int], str]:
        rho, regret = (mean(rows, c, *line) for c in ("spearman", "regret"))
        return lambda n: f"{rho[n]:.3f} ({regret[n]:.3f})" if n in rho else ""

    def value(*line: str) -> Callable[[int], str]:
        columns = ("error", "coverage", "spearman_value")
        error, cover, rho = (mean(rows, c, *line) for c in columns)
        return lambda n: f"{error[n]:.3f}, {cover[n]:.2f} ({rho[n]:.2f})" if n in rho else ""

    return [
        _table(
            f"{references} models scored in full, what selection compares: Spearman of `ranked` "
            "(regret of its best). `sample_mean` compares accuracies, all other estimators the "
            "panel's accuracy blended with the probability of the right answer; greg stands for "
            "them.",
            [*ranks, (TWICE, "sample_mean")],
            rank,
        ),
        _table(
            f"{references} models scored in full, what is shown: mean absolute error, coverage of "
            "the 95% interval (Spearman of `value`).",
            values,
            value,
        ),
    ]


def _table(
    title: str, lines: Sequence[tuple[str, str]], cells: Callable[..., Callable[[int], str]]
) -> str:
    sizes = (5, 10, 20, 50, 100)
    rows = [[*line, *map(cells(*line), sizes)] for line in lines]
    heads = ["panel", "estimator", *(f"n = {n}" for n in sizes)]
    return show(title, heads, [r for r in rows if any(r[2:])])


def _charts(few: Sequence[Row], many: Sequence[Row], references: int) -> None:
    ranks = [
        Line("disagreement, blended (default)", mean(few, "spearman", "disagreement", "greg"), 0),
        Line("random, twice as many documents", mean(few, "spearman", TWICE, "sample_mean"), 1),
        Line("disagreement", mean(few, "spearman", "disagreement", "sample_mean"), 2),
        Line("random, blended", mean(few, "spearman", "random", "greg"), 3),
        Line("random", mean(few, "spearman", "random", "sample_mean"), 4),
    ]
    chart(DOCS / "fitness_ranking.svg", "rank correlation with the full score", ranks)
    learned = f"{references} models known"
    errors = [
        Line("random, plain mean", mean(few, "error", "random", "sample_mean"), 4),
        Line("greg (default)", mean(few, "error", "disagreement", "greg"), 0),
        Line(f"greg, {learned}", mean(many, "error", "disagreement", "greg"), 1),
        Line(f"p_irt, {learned}", mean(many, "error", "disagreement", "p_irt"), 2),
        Line(f"gp_irt, {learned}", mean(many, "error", "disagreement", "gp_irt"), 3),
    ]
    chart(DOCS / "fitness_error.svg", "mean absolute error of the shown accuracy", errors)


if __name__ == "__main__":
    write(Path(__file__).parent, ["merges"])
