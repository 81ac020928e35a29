"""The quickstart over several seeds: what it finds, on the report documents.

python experiments/quickstart_seeds.py [--seeds 0 1 2] [--set KEY.PATH=VALUE ...]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from evoaim import Experiment, run_search
from evoaim.front import hypervolume, reference_point
from evoaim.results import losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    options = parser.parse_args()
    table = Table(
        "seed", "best merge's mean", "best parent's mean", "hypervolume", "parents' hypervolume"
    )
    for seed in options.seeds:
        overrides = [*options.overrides, f"seed={seed}"]
        experiment = Experiment.from_yaml("experiments/quickstart.yaml", overrides)
        with tempfile.TemporaryDirectory() as folder:
            results = run_search(experiment, Path(folder) / "run")
        front, parents = (
            losses(results.objectives, [e.report or {} for e in entries])
            for entries in (results.front, results.parents)
        )
        corner = reference_point(parents)
        row = (
            -front.mean(axis=1).min(),
            -parents.mean(axis=1).min(),
            hypervolume(np.concatenate([front, parents]), corner),
            hypervolume(parents, corner),
        )
        table.add_row(str(seed), *(f"{v:.4f}" for v in row))
    Console().print(table)


if __name__ == "__main__":
    main()
