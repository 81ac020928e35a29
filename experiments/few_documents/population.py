"""The merges of one search with what each scored on every search document: the study's truth."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evoaim import Experiment
from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir, read_json, read_scores
from evoaim.scoring import pools
from fitness.responses import references
from fitness.samples import Floats, Ints, References
from fitness.types import Metric, Scores


@dataclass(frozen=True, eq=False)
class Truth:
    """One task: what all models scored on all N documents.

    Args:
        metric: of the task.
        labels: (N,) the stratum of each document.
        parents: base and experts.
        merges: (M, N), in the order in which they were found.
    """

    metric: Metric
    labels: tuple[str, ...]
    parents: References
    merges: References

    def known(self, rows: Ints) -> References:
        """Base, experts and some merges, as what a search may learn from."""
        return References(
            (*self.parents.names, *(self.merges.names[r] for r in rows)),
            len(self.parents),
            np.vstack([self.parents.score, self.merges.score[rows]]),
            np.vstack([_soft(self.parents), _soft(self.merges)[rows]]),
        )


def load(folder: Path) -> list[Truth]:
    """The tasks of a finished run in which every candidate was scored on all documents."""
    run = RunDir(folder)
    experiment = Experiment.from_yaml(run.experiment)
    stratified = replace(experiment.fitness, panel={"kind": "stratified", "by": "task"})
    evaluator = Evaluator.of(replace(experiment, fitness=stratified))
    found = pools(evaluator.experiment, evaluator.scorer, evaluator.documents["search"])
    parents = {e["name"]: _scores(run, e["name"]) for e in read_json(run.parents)}
    files = sorted((folder / "responses" / "search").glob("trial_*.json"), key=_number)
    merges = {f.stem: _scores(run, f.stem) for f in files}
    tasks = []
    for metric in (o.metrics[0] for o in evaluator.objectives):
        pool = found[metric.task]
        known = references(parents, len(parents), metric, pool.documents)
        others = references(merges, 0, metric, pool.documents)
        tasks.append(Truth(metric, pool.labels or (), known, others))
    return tasks


def _number(file: Path) -> int:
    return int(file.stem.partition("_")[2])


def _scores(run: RunDir, who: str) -> Scores:
    scores = read_scores(run.responses(who, "search"))
    if scores is None:
        raise SystemExit(f"{run.path}: no responses of {who}")
    return scores


def _soft(known: References) -> Floats:
    if known.soft is None:
        raise SystemExit(f"no probabilities of the right answers: {', '.join(known.names)}")
    return known.soft
