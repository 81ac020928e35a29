"""Runs every optimizer on the demo zoo: the same candidates, documents and seeds for all.

    python experiments/optimizers/compare.py [--seeds 10] [--candidates 200] [--only nsga2,random]

Writes one line a search to results.jsonl beside this file and skips those that are there; tables.py
makes the tables and the chart of them. An optimizer of several objectives is given the accuracies
on math and Italian, one of a single objective their mean. Every search has documents of its own (by
its seed), on which it compares candidates. What is written down comes from the report documents: at
some numbers of candidates, the hypervolume that the front so far dominates there, and the mean of
both accuracies of the candidate whose mean is best on the search documents.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from evoaim import Experiment, Search
from evoaim.evaluator import Evaluator
from evoaim.front import hypervolume, nondominated, reference_point
from evoaim.registry import OPTIMIZERS
from evoaim.results import losses
from fitness.table import panel_row
from fitness.types import Estimate, Objective, Scores
from search_spaces.genes import Genome

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
MEASURED = HERE.parent.parent / "runs" / "optimizers"  # importance and statistics of the zoo
DOCUMENTS = 40  # a task, of 200, for every candidate
AT = (25, 50, 100, 150, 200)  # candidates after which a search is measured
BATCH = {"random": 8, "qmc": 8, "tpe": 8}  # generations of the others have 8 to 16 candidates
SCHEDULES = {
    "qmc_nsga2": [{"kind": "qmc", "candidates": 32, "batch": 8}, {"kind": "nsga2"}],
    "m2n2_tpe": [{"kind": "m2n2", "candidates": 100}, {"kind": "tpe", "batch": 8}],
}
DELTA = "_delta"  # the same optimizer, with the genes of a parameter moved together
MOVED = tuple(f"{kind}{DELTA}" for kind in ("nsga2", "age_moea2", "m2n2"))
MEAN = Objective("mean", "maximize", ())


class Zoo:
    """The models and documents of all searches, and what is known of the base and the experts."""

    def __init__(self) -> None:
        experiment = Experiment.from_yaml(HERE.parent / "quickstart.yaml")
        estimator = {"kind": "greg", "documents": DOCUMENTS}
        fitness = replace(experiment.fitness, estimator=estimator)
        opened = Evaluator.of(replace(experiment, fitness=fitness))
        MEASURED.mkdir(parents=True, exist_ok=True)
        self.evaluator = opened.ready(MEASURED / "importance.safetensors", MEASURED / "statistics")
        parents = self.evaluator.parents().values()
        self.known = {str(i): self._full(r, "search") for i, r in enumerate(parents)}
        reports = [self.evaluator.report(self._full(r, "report")) for r in parents]
        self.reference = reference_point(losses(self.objectives, reports))
        self._reports: dict[str, dict[str, Estimate]] = {}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Accuracy on math and on Italian."""
        return self.evaluator.objectives

    def report(self, genome: Genome) -> dict[str, Estimate]:
        """A candidate on the report documents."""
        key = json.dumps(dict(genome))
        if key not in self._reports:
            scores = self._full(self.evaluator.space.decode(genome), "report")
            self._reports[key] = self.evaluator.report(scores)
        return self._reports[key]

    def _full(self, recipe: object, split: str) -> Scores:
        documents = self.evaluator.documents[split]  # type: ignore[index]
        return self.evaluator.score(recipe, split, [documents])  # type: ignore[arg-type]


def run(zoo: Zoo, kind: str, seed: int, candidates: int) -> dict[str, object]:
    """One search, and what it had found after some numbers of candidates."""
    evaluator = zoo.evaluator
    seeded = replace(evaluator, experiment=replace(evaluator.experiment, seed=seed))
    scheme = seeded.scheme(zoo.known, len(zoo.known))
    name = kind.removesuffix(DELTA)
    one = name in OPTIMIZERS and OPTIMIZERS[name].OBJECTIVES == "one"
    goals = {o.name: o.goal for o in ((MEAN,) if one else zoo.objectives)}
    options = {"batch": BATCH[name]} if name in BATCH else {}
    optimizer = SCHEDULES.get(name, {"kind": name, **options})
    encoding = "delta" if kind.endswith(DELTA) else "plain"
    space = replace(evaluator.space, encoding=encoding)
    search = Search.over(space, goals, optimizer, candidates, seed)
    found: list[dict[str, float]] = []
    genomes: list[Genome] = []
    begin, scoring = time.perf_counter(), 0.0
    while not search.done:
        for candidate in search.ask():
            start = time.perf_counter()
            scores = evaluator.score(
                evaluator.space.decode(candidate.genome), "search", scheme.blocks()
            )
            estimates = scheme.estimate(scores)
            scoring += time.perf_counter() - start
            values = {n: e.ranked for n, e in estimates.items()}
            found.append(values)
            genomes.append(candidate.genome)
            told = {"mean": sum(values.values()) / 2} if one else values
            search.tell(candidate, told, panel_row(scheme, scores))
    seconds = time.perf_counter() - begin
    return {
        "kind": kind,
        "seed": seed,
        "own_ms": round(1000 * (seconds - scoring) / len(found), 2),
        "at": {n: measured(zoo, found[:n], genomes) for n in AT if n <= len(found)},
    }


def measured(
    zoo: Zoo, found: Sequence[Mapping[str, float]], genomes: Sequence[Genome]
) -> dict[str, float]:
    """What the front by search documents is worth on the report documents."""
    points = np.array([[-f[o.name] for o in zoo.objectives] for f in found])
    members = [zoo.report(genomes[i]) for i in np.flatnonzero(nondominated(points))]
    chosen = zoo.report(genomes[int(points.mean(axis=1).argmin())])
    return {
        "hypervolume": round(hypervolume(losses(zoo.objectives, members), zoo.reference), 5),
        "mean": round(sum(e.value for e in chosen.values()) / len(chosen), 5),
        "front": len(members),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=10)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--candidates", type=int, default=200)
    arguments.add_argument("--only", default=",".join([*OPTIMIZERS, *SCHEDULES, *MOVED]))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    zoo = Zoo()
    seeds = range(given.first, given.first + given.seeds)
    for seed, kind in product(seeds, given.only.split(",")):
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        if any((r["kind"], r["seed"]) == (kind, seed) for r in map(json.loads, lines)):
            continue
        result = run(zoo, kind, seed, given.candidates)
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(kind, seed, result["own_ms"], result["at"][max(result["at"])], flush=True)


if __name__ == "__main__":
    main()
