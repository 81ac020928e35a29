"""One line of the study's CSV files, and means over them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Row:
    """What one estimator did on panels of `n` documents of one task, averaged over draws.

    Args:
        task: whose documents.
        references: models scored in full that selector and estimator knew.
        selector: of `fitness.selectors`.
        estimator: of `fitness.estimators`.
        n: documents of the task.
        error: mean over merges of |value - accuracy on all documents|.
        spearman_value: rank correlation of `value` with the accuracy on all documents.
        spearman: that of `ranked`, which selection compares.
        regret: accuracy of the best merge less that of the best by `ranked`.
        coverage: share of the 95% intervals of `value` that hold the accuracy on all documents.
    """

    task: str
    references: int
    selector: str
    estimator: str
    n: int
    error: float
    spearman_value: float
    spearman: float
    regret: float
    coverage: float


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """As CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(Row)])
        for row in rows:
            writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in astuple(row)])


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote."""
    with path.open(encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    return [Row(v[0], int(v[1]), v[2], v[3], int(v[4]), *map(float, v[5:])) for v in lines]


def mean(rows: Sequence[Row], column: str, selector: str, estimator: str) -> dict[int, float]:
    """n -> mean over the tasks; empty if there is no such line."""
    own = [r for r in rows if (r.selector, r.estimator) == (selector, estimator)]
    sizes = sorted({r.n for r in own})
    return {n: float(np.mean([getattr(r, column) for r in own if r.n == n])) for n in sizes}
