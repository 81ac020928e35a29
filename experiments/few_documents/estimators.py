"""Which documents to score a merge on, and what to make of the answers: selectors and estimators.

python experiments/few_documents/estimators.py [RUN ...] [--draws 20] [--jobs 2]

RUN is a finished run of merges.yaml; without one, that search runs first (a minute or two).
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from findings import TWICE, write
from population import Truth, load
from rows import Row, write_rows
from scipy.stats import spearmanr

from evoaim import Experiment, run_search
from evoaim.registry import ESTIMATORS, SELECTORS
from fitness.errors import FitnessError
from fitness.ranking import ruler
from fitness.samples import Population, Sample, Selection, Setting

HERE = Path(__file__).parent
SIZES = (5, 10, 20, 50, 100)  # documents a task
PROMOTED = 36  # merges that are references too, and are left out of every comparison
FEW_DRAWS = 3  # of a panel, where k-means or item response theory makes them dear
SOME = 4  # estimators by item response theory estimate every fourth merge
CHEAP = ("sample_mean", "stratified", "greg")
CLUSTERED = ("anchors", "irt_anchors")


@dataclass(frozen=True)
class Case:
    """One task with one selector, one set of references and that many panels."""

    task: int
    selector: str
    references: int
    draws: int


def main() -> None:
    """Measure every run, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--draws", type=int, default=20, help="panels a line")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or [Path(temporary) / "merges"]
        if not options.runs:
            run_search(Experiment.from_yaml(HERE / "merges.yaml"), runs[0])
        populations = [(run.name, load(run)) for run in runs]
    for name, tasks in populations:
        write_rows(HERE / f"{name}.csv", measure(tasks, options.draws, options.jobs))
    write(HERE, [name for name, _ in populations])


def measure(tasks: Sequence[Truth], draws: int, jobs: int) -> list[Row]:
    """All rows of one population of merges, the tasks side by side in `jobs` processes."""
    names = [*SELECTORS, TWICE]
    few = len(tasks[0].parents)
    found = [
        Case(task, selector, references, draws)
        for references, selector, task in product((few + PROMOTED, few), names, range(len(tasks)))
        if selector == TWICE or references >= SELECTORS[selector].REFERENCES
    ]
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(_case, [tasks[c.task] for c in found], found)
        return [row for part in rows for row in part]


def _case(truth: Truth, case: Case) -> list[Row]:
    rng = np.random.default_rng(0)
    merges = rng.permutation(len(truth.merges))
    promoted, others = merges[:PROMOTED], np.sort(merges[PROMOTED:])
    known = truth.known(promoted[: case.references - len(truth.parents)])
    rows = []
    for n in SIZES:
        by_estimator: dict[str, list[tuple[float, ...]]] = {}
        for draw in range(min(case.draws, FEW_DRAWS) if case.selector in CLUSTERED else case.draws):
            population = Population(len(truth.labels), known, truth.labels)
            try:
                selection = _select(case.selector, population, n, draw)
            except FitnessError:
                break  # more clusters than documents that differ
            for name in _estimators(case.selector, draw):
                setting = Setting(truth.metric, selection, known)
                some = others if name in CHEAP else others[::SOME]
                by_estimator.setdefault(name, []).append(_figures(truth, setting, name, some))
        rows += [
            Row(truth.metric.task, case.references, case.selector, name, n, *np.mean(draws, axis=0))
            for name, draws in by_estimator.items()
        ]
    return rows


def _select(name: str, population: Population, n: int, draw: int) -> Selection:
    rng = np.random.default_rng([n, draw])
    if name == TWICE:
        name, n = "random", 2 * n
    module = SELECTORS[name]
    params: Any = module.Params("task") if name == "stratified" else module.Params()
    found: Selection = module.select(population, n, params, rng)
    return found


def _estimators(selector: str, draw: int) -> Iterable[str]:
    if selector == TWICE:
        return ("sample_mean",)
    return ESTIMATORS if draw < FEW_DRAWS else CHEAP


_FITTED: dict[tuple[Any, ...], Any] = {}


def _figures(
    truth: Truth, setting: Setting, estimator: str, merges: np.ndarray
) -> tuple[float, ...]:
    """The figures of `Row` for one panel."""
    module, selection = ESTIMATORS[estimator], setting.selection
    # fits depend on the references and on whether the panel was drawn, not on the documents in it
    key = (truth.metric.key, len(setting.references), estimator, selection.random)
    if key not in _FITTED:
        _FITTED[key] = module.fit(setting, module.Params())
    rule, at = ruler(setting), selection.positions
    assert truth.merges.soft is not None
    exact = truth.merges.score[merges].mean(axis=1)
    value, ranked, low, high = np.empty((4, len(merges)))
    for i, row in enumerate(merges):
        own = Sample(
            selection, truth.merges.score[row, at], np.ones(len(at)), truth.merges.soft[row, at]
        )
        found = _FITTED[key](own)
        value[i], (low[i], high[i]) = found.value, found.interval
        ranked[i] = found.ranked if module.RANK == "value" else rule.value(own)
    return (
        float(np.abs(value - exact).mean()),
        _correlation(value, exact),
        _correlation(ranked, exact),
        float(exact.max() - exact[ranked.argmax()]),
        float(((low - 1e-9 <= exact) & (exact <= high + 1e-9)).mean()),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


if __name__ == "__main__":
    main()
