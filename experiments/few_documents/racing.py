"""Searches on panels, with and without racing, against searches that score everything.

python experiments/few_documents/racing.py [--runs FOLDER] [--seeds 0 1 2 3 4] [--only full ...]

Finished searches in FOLDER are read, the others run there (a minute or two each on one core).
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from false_drops import replay
from rich.console import Console
from tables import show

from evoaim import Experiment, run_search
from evoaim.front import hypervolume, reference_point
from evoaim.results import Results, losses
from evoaim.run_dir import RunDir, read_scores
from fitness.samples import Floats

CANDIDATES = 200
GREG16 = ["fitness.estimator={kind: greg, documents: 16}", "fitness.promotion=false"]
SETTINGS = {
    "full": ["fitness.estimator={kind: sample_mean, documents: null}"],
    "greg16": GREG16,
    "greg16nr": [*GREG16, "fitness.racing=false"],
    "random20": ["fitness.estimator={kind: sample_mean, documents: 20}"],
}
WORDS = {
    "full": "all 200 documents a task",
    "greg16": "default panel of 16, racing",
    "greg16nr": "default panel of 16, no racing",
    "random20": "20 random documents, plain mean",
}
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Found:
    """What one search found and what it ran.

    Args:
        volume: report-set hypervolume of its front.
        parents: that of base and experts.
        best: largest mean of both objectives in the front, on the report documents.
        members: of the front.
        documents: search documents run: of base and experts, candidates, promoted ones.
        raced: share of the candidates that were dropped.
        optimism: search estimate less report score, mean over front and objectives.
    """

    volume: float
    parents: float
    best: float
    members: int
    documents: int
    raced: float
    optimism: float


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        found = {
            name: [
                search(runs / f"{name}_{seed}".replace(" ", "_"), name, seed)
                for seed in options.seeds
            ]
            for name in options.only
        }
        if set(options.only) != set(SETTINGS):
            return
        text = [compare(found)]
        text.append(replay([runs / f"full_{seed}" for seed in options.seeds]))
    (HERE / "racing.md").write_text("\n".join(text), encoding="utf-8")


def search(folder: Path, name: str, seed: int) -> Found:
    """One search, or what it found when it ran."""
    if not (folder / "front.json").exists():
        overrides = [*SETTINGS[name], f"budget.candidates={CANDIDATES}", f"seed={seed}"]
        run_search(Experiment.from_yaml("experiments/quickstart.yaml", overrides), folder)
        Console().print(f"{folder.name} finished")
    results = Results.read(RunDir(folder))
    front, parents = (
        losses(results.objectives, [e.report or {} for e in entries])
        for entries in (results.front, results.parents)
    )
    corner = reference_point(parents)
    gaps = [
        o.loss(e.report[o.name].value) - o.loss(e.known[o.name].value)
        for e in results.front
        for o in results.objectives
        if e.report is not None
    ]
    return Found(
        hypervolume(np.concatenate([front, parents]), corner),
        hypervolume(parents, corner),
        float(-front.mean(axis=1).min()),
        len(front),
        documents(folder),
        float(np.mean([t.raced for t in results.trials])),
        float(np.mean(gaps)),
    )


def documents(folder: Path) -> int:
    """Search documents for which the run holds scores, each model's counted."""
    total = 0
    for file in (folder / "responses" / "search").glob("*.json"):
        scores = read_scores(file) or {}
        sizes = {key.partition("/")[0]: len(s.documents) for key, s in scores.items()}
        total += sum(sizes.values())
    return total


def compare(found: dict[str, list[Found]]) -> str:
    """Means and ranges over the seeds, and differences from the full search of the same seed."""
    full = _column(found["full"], "volume")
    spent = _column(found["full"], "documents")
    rows = []
    for name, runs in found.items():
        gain = _column(runs, "volume") - full
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        share = _column(runs, "documents") / spent
        rows.append(
            [
                WORDS[name],
                f"{_column(runs, 'documents').mean():.0f}",
                f"{share.mean():.3f} ({share.min():.3f} to {share.max():.3f})",
                _range(_column(runs, "volume")),
                "" if name == "full" else f"{gain.mean():+.4f} ± {error:.4f}",
                _range(_column(runs, "best")),
                f"{_column(runs, 'raced').mean():.2f}",
                f"{_column(runs, 'members').mean():.1f}",
                f"{_column(runs, 'optimism').mean():+.3f}",
            ]
        )
    parents = _column(found["full"], "parents").mean()
    title = (
        f"Searches of {CANDIDATES} candidates, {len(full)} seeds: mean (range). Hypervolume of "
        f"front and parents on the report documents; the parents alone have {parents:.4f}. "
        "Documents: all search documents run, base and experts and promoted candidates included."
    )
    heads = [
        "setting",
        "documents",
        "share of full",
        "hypervolume",
        "difference ± standard error",
        "best mean",
        "raced out",
        "front",
        "optimism",
    ]
    return show(title, heads, rows)


def _column(runs: list[Found], name: str) -> Floats:
    return np.array([getattr(r, name) for r in runs], dtype=np.float64)


def _range(values: Floats) -> str:
    return f"{values.mean():.4f} ({values.min():.4f} to {values.max():.4f})"


if __name__ == "__main__":
    main()
