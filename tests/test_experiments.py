"""Experiment files: all of them parse, and the quickstart finds what it promises."""

from pathlib import Path

import numpy as np
import pytest

from evoaim import Experiment, run_search
from evoaim.front import hypervolume, reference_point
from evoaim.results import losses

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_experiment_parses(file: Path) -> None:
    experiment = Experiment.from_yaml(file)
    assert Experiment.from_dict(experiment.to_dict()) == experiment


@pytest.mark.skipif(not (ROOT / "zoo" / "base").is_dir(), reason="needs the demo zoo")
def test_the_quickstart_beats_every_parent_on_the_report_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    experiment = Experiment.from_yaml("experiments/quickstart.yaml", ["budget.candidates=64"])
    results = run_search(experiment, tmp_path / "run")
    front, parents = (
        losses(results.objectives, [e.report or {} for e in entries])
        for entries in (results.front, results.parents)
    )
    assert -front.mean(axis=1).min() > -parents.mean(axis=1).min()
    corner = reference_point(parents)
    assert hypervolume(np.concatenate([front, parents]), corner) > hypervolume(parents, corner)
