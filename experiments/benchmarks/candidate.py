"""Where a candidate's time goes: materialize, model forward, everything else.

    python experiments/benchmarks/candidate.py [EXPERIMENT.yaml] [--candidates 40]

Runs a random search of an experiment in a temporary run directory and prints shares of one run's
time. The model's forward is measured inside the same candidates, by hooks on the live model.
"""

import argparse
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evoaim import Experiment, MergeEngine, run_search

SPENT = {"materialize": 0.0, "forward": 0.0}


class Timer:
    """A progress that notes when the search proper begins and when the last candidate ends."""

    begin = end = 0.0

    def stage(self, text: str) -> None:
        """Start counting."""
        if text == "searching":
            SPENT.update(materialize=0.0, forward=0.0)
            self.begin = time.perf_counter()

    def candidate(self, _snapshot: Any) -> None:
        """Keep what has been spent so far."""
        self.end = time.perf_counter()
        self.spent = dict(SPENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="?", default="experiments/quickstart.yaml")
    parser.add_argument("--candidates", type=int, default=40)
    options = parser.parse_args()
    experiment = Experiment.from_yaml(
        options.experiment,
        [f"budget={{candidates: {options.candidates}}}", "optimizer={kind: random}"],
    )
    watch_materialize()
    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        run_search(experiment, Path(folder) / "run", timer)
    total = timer.end - timer.begin
    rest = total - timer.spent["materialize"] - timer.spent["forward"]
    table = Table("part", "ms a candidate", "share", title=f"{experiment.name}, one run")
    for name, spent in [*timer.spent.items(), ("everything else", rest), ("whole", total)]:
        table.add_row(name, f"{1e3 * spent / options.candidates:.1f}", f"{spent / total:.2f}")
    Console().print(table)


def watch_materialize() -> None:
    """Time materialize and, within its block, the live model's forward."""
    inner = MergeEngine.materialize

    @contextmanager
    def outer(self: MergeEngine, recipe: Any) -> Any:
        begin = time.perf_counter()
        with inner(self, recipe) as model:
            SPENT["materialize"] += time.perf_counter() - begin
            started: list[float] = []
            hooks = [
                model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter())),
                model.register_forward_hook(lambda *_: add(time.perf_counter() - started.pop())),
            ]
            try:
                yield model
            finally:
                for hook in hooks:
                    hook.remove()

    def add(seconds: float) -> None:
        SPENT["forward"] += seconds

    MergeEngine.materialize = outer  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    main()
