"""Per-document scores of earlier runs, as far as they are about the same documents and tasks."""

from collections.abc import Mapping
from pathlib import Path

from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.evaluator import Evaluator
from evoaim.manifest import definitions
from evoaim.run_dir import existing, read_json, read_scores
from fitness.responses import covers
from fitness.types import Scores


def earlier_responses(experiment: Experiment, evaluator: Evaluator) -> dict[str, Scores]:
    """Models that the runs under `responses:` scored on all search documents, by a name.

    Raises:
        ConfigError: no run there, or one that scored other tasks.
    """
    found: dict[str, Scores] = {}
    for path in experiment.responses:
        run = existing(path)
        _check_tasks(path, read_json(run.manifest), evaluator)
        for file in sorted((run.path / "responses" / "search").glob("*.json")):
            scores = read_scores(file)
            if scores is not None and _in_full(scores, evaluator):
                found[f"{Path(path).name}/{file.stem}"] = scores
    return found


def _check_tasks(path: str, manifest: Mapping[str, object], evaluator: Evaluator) -> None:
    """The run must have scored the same tasks in the same way, with the same tokenizer."""
    theirs = manifest["scored"]
    assert isinstance(theirs, dict)
    for what, digest in definitions(evaluator).items():
        if what not in theirs:
            others = [k.removeprefix("the definition of ") for k in theirs if "definition" in k]
            raise ConfigError(
                f"responses: the run '{path}' has no scores of "
                f"{what.removeprefix('the definition of ')}; it scored {', '.join(others)}; "
                "leave it out, or name a run of the same tasks"
            )
        if theirs[what] != digest:
            raise ConfigError(
                f"responses: {what} is another in the run '{path}', so its scores cannot be "
                "compared; leave it out"
            )


def _in_full(scores: Scores, evaluator: Evaluator) -> bool:
    for objective in evaluator.objectives:
        for metric in objective.metrics:
            hashes = evaluator.scorer.documents(metric.task, "search")
            wanted = [hashes[p] for p in evaluator.documents["search"].documents[metric.task]]
            if not covers(scores, metric, wanted):
                return False
    return True
