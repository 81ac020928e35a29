"""What a search costs beside merging and scoring, as it grows, and how soon it is resumed.

    python experiments/benchmarks/loop.py [--candidates 10000] [--optimizer nsga2]

The real search of the demo zoo (optimizer, study, recipes, responses, notes, estimates), but with
workers that answer at once, with scores drawn for every document (and so no races). Prints
milliseconds of CPU a candidate over the first and the last 500, and seconds of CPU until the first
new candidate after a resume.
"""

import argparse
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np

from evoaim import Experiment, run_search
from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir
from evoaim.snapshot import Snapshot
from evoaim.work import Answer, Job
from fitness.types import DocumentScores, Panel, Scores, Split

WINDOW = 500


class Instant:
    """Workers that do not look at a model: right answers by chance, better for some weights."""

    n = 1
    devices = ("none",)

    def __init__(self, experiment: Experiment) -> None:
        self._evaluator = Evaluator.at_a_desk(experiment)
        self._jobs: deque[tuple[int, Job]] = deque()
        self.seconds = 0.0

    def prepare(self, run: RunDir) -> None:
        """Nothing is measured."""

    def submit(self, ticket: int, job: Job) -> None:
        """See `Workers`."""
        self._jobs.append((ticket, job))

    def answer(self) -> tuple[int, Answer]:
        """See `Workers`; what drawing the scores takes is kept apart."""
        begin = time.process_time()
        answer = self._answer()
        self.seconds += time.process_time() - begin
        return answer

    def _answer(self) -> tuple[int, Answer]:
        ticket, job = self._jobs.popleft()
        panel = Panel({})
        for part in job.panels:
            panel |= part
        return ticket, Answer(self._scores(job, panel, job.split), 0.0, "", 1.0)

    def close(self) -> None:
        """Nobody is there."""

    def _scores(self, job: Job, panel: Panel, split: Split) -> Scores:
        rng = np.random.default_rng(crc32(repr(job.recipe).encode()))
        level = rng.uniform(0.3, 0.7)
        scores = {}
        for task, positions in panel.documents.items():
            hashes = self._evaluator.scorer.documents(task, split)
            documents = tuple(hashes[p] for p in positions)
            soft = rng.beta(4 * level, 4 * (1 - level), len(documents))
            found = {"acc": soft > 0.5, "probability": soft, "nll": -np.log(soft)}
            for name, values in found.items():
                total = np.asarray(values, dtype=float)
                scores[f"{task}/{name}"] = DocumentScores(documents, total, np.ones(len(total)))
        return scores


class Clock:
    """The time of every candidate, without what the workers took."""

    def __init__(self, workers: Instant) -> None:
        self.workers = workers
        self.begin = time.process_time()
        self.times: list[float] = []

    def stage(self, _text: str) -> None:
        """Not of interest."""

    def candidate(self, _snapshot: Snapshot) -> None:
        """A candidate is done."""
        self.times.append(time.process_time() - self.workers.seconds)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--candidates", type=int, default=10_000)
    arguments.add_argument("--optimizer", default="nsga2")
    given = arguments.parse_args()
    file = Path(__file__).parents[1] / "quickstart.yaml"
    experiment = Experiment.from_yaml(file, [f"optimizer={{kind: {given.optimizer}}}"])
    budget = replace(experiment.budget, candidates=given.candidates)
    experiment = replace(experiment, budget=budget)
    with TemporaryDirectory() as folder:
        workers = Instant(experiment)
        clock = Clock(workers)
        run_search(experiment, folder, clock, workers)
        steps = 1000 * np.diff(clock.times)
        first, last = steps[:WINDOW].mean(), steps[-WINDOW:].mean()
        print(
            f"{given.optimizer}: {first:.1f} ms of CPU a candidate over the first {WINDOW}, "
            f"{last:.1f} over the last of {given.candidates}, ratio {last / first:.2f}"
        )
        more = replace(experiment, budget=replace(budget, candidates=given.candidates + 1))
        workers = Instant(more)
        clock = Clock(workers)
        run_search(more, folder, clock, workers)
        print(f"resumed: {clock.times[0] - clock.begin:.1f} s of CPU until the first new candidate")


if __name__ == "__main__":
    main()
