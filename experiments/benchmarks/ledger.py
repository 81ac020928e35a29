"""What the ledger costs a candidate at the beginning and at the end of a long search."""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from evoaim.ledger import Ledger, Trial
from fitness.types import Estimate, Objective
from search_spaces.genes import Gene, Real

GENES: list[Gene] = [Real(f"weight.{i}", 0.0, 1.0) for i in range(40)]
OBJECTIVES = [Objective("math", "maximize", ()), Objective("italian", "maximize", ())]
NOTE = "- math: **0.5**\n" + "parameters: {weight: 0.25, density: 0.5}\n" * 75  # 3 kB


def candidate(ledger: Ledger, number: int, rng: random.Random) -> float:
    """Start, note and finish one candidate; what that took in milliseconds."""
    genome = {g.name: rng.random() for g in GENES}
    estimates = {o.name: Estimate(rng.random(), 0.05, None, 50) for o in OBJECTIVES}
    begin = time.perf_counter()
    ledger.start(number, genome)
    ledger.note(number, NOTE)
    ledger.finish(Trial(number, genome, "done", estimates, 1.0, documents=100))
    return 1e3 * (time.perf_counter() - begin)


def measure(url: str, trials: int, window: int) -> str:
    """One row of the table for a storage."""
    ledger = Ledger.open(url, "benchmark", OBJECTIVES, GENES)
    rng = random.Random(0)
    with ledger.held():
        taken = np.array([candidate(ledger, n, rng) for n in range(trials)])
    first, last = float(np.mean(taken[:window])), float(np.mean(taken[-window:]))
    begin = time.perf_counter()
    read = len(Ledger.read(url, "benchmark").trials())
    seconds = time.perf_counter() - begin
    assert read == trials
    kind = url.partition(":")[0]
    return f"{kind:<12}{first:>10.2f}{last:>10.2f}{last / first:>8.2f}{seconds:>12.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=500, help="trials that a mean is over")
    parser.add_argument("--storage", action="append", help="URL; default: SQLite and a journal")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study"
        urls = args.storage or [f"sqlite:///{path}.db", f"journal:///{path}.log"]
        print(f"{args.trials} trials, {len(GENES)} genes, {len(OBJECTIVES)} objectives")
        heads = ("first/ms", "last/ms", "ratio", "read/s")
        print("storage     {:>10}{:>10}{:>8}{:>12}".format(*heads))
        for url in urls:
            print(measure(url, args.trials, args.window), flush=True)


if __name__ == "__main__":
    main()
