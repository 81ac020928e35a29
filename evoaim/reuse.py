"""Per-document scores of earlier runs, as far as they are about the same documents and tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evoaim.config import Experiment
from evoaim.errors import ConfigError, under
from evoaim.evaluator import Evaluator
from evoaim.manifest import definitions
from evoaim.run_dir import RunDir, existing, read_json, read_models, read_scores
from evoaim.scoring import is_whole
from fitness.responses import covers
from fitness.types import Scores
from search_spaces import strict_yaml


@dataclass(frozen=True, eq=False)
class Reused:
    """Models that earlier runs scored on all search documents.

    Args:
        parents: this experiment's base and experts, by name: they need not be scored again.
        others: all other models, by run and name.
    """

    parents: Mapping[str, Scores] = field(default_factory=dict)
    others: Mapping[str, Scores] = field(default_factory=dict)


def earlier_responses(experiment: Experiment, evaluator: Evaluator) -> Reused:
    """What the runs under `responses:` can lend.

    Raises:
        ConfigError: no run there, or one that scored other tasks, or in another way.
    """
    ours = {m.content_hash: name for name, m in evaluator.models().items()}
    parents: dict[str, Scores] = {}
    others: dict[str, Scores] = {}
    for path in experiment.responses:
        with under("responses"):
            run = existing(path)
        manifest = read_json(run.manifest)
        _check_tasks(path, manifest["scored"], evaluator)
        same = _precision(run) == experiment.models.dtype
        for file in sorted((run.path / "responses" / "search").glob("*.json")):
            scores = read_scores(file)
            if scores is None or not _in_full(scores, evaluator):
                continue
            scores = {k: s for k, s in scores.items() if k in _lendable(evaluator, scores)}
            known = ours.get(manifest["models"].get(file.stem))
            if known is None:
                others[f"{path}/{file.stem}"] = scores
            elif same:
                parents.setdefault(known, scores)
    return Reused(parents, others)


def kept_responses(run: RunDir) -> Reused | None:
    """What was lent when the run began, so that it can be resumed whatever became of the others."""
    kept = read_models(run.reused)
    return None if kept is None else Reused({}, kept)


def _precision(run: RunDir) -> str:
    return str(strict_yaml.read(run.experiment)["models"]["dtype"])


def _check_tasks(path: str, theirs: Mapping[str, Any], evaluator: Evaluator) -> None:
    """The run must have scored the same tasks in the same way, with the same tokenizer."""
    for what, digest in definitions(evaluator).items():
        task = what.removeprefix("the definition of ")
        if task in evaluator.documents["search"].documents and is_whole(evaluator.experiment, task):
            continue  # texts and weights are scored anew: they may refer to another base
        if what not in theirs:
            others = [k.removeprefix("the definition of ") for k in theirs if "definition" in k]
            raise ConfigError(
                f"responses: the run '{path}' has no scores of "
                f"{task}; it scored {', '.join(others)}; "
                "leave it out, or name a run of the same tasks"
            )
        if theirs[what] != digest:
            raise ConfigError(
                f"responses: {what} is another in the run '{path}', so its scores cannot be "
                "compared; leave it out"
            )


def _lendable(evaluator: Evaluator, scores: Scores) -> set[str]:
    """Metrics of this experiment's tasks; nothing that may refer to another base."""
    tasks = evaluator.documents["search"].documents
    own = {t for t in tasks if not is_whole(evaluator.experiment, t)}
    return {key for key in scores if key.rpartition("/")[0] in own}


def _in_full(scores: Scores, evaluator: Evaluator) -> bool:
    for objective in evaluator.objectives:
        for metric in objective.metrics:
            if is_whole(evaluator.experiment, metric.task):
                continue
            hashes = evaluator.scorer.documents(metric.task, "search")
            wanted = [hashes[p] for p in evaluator.documents["search"].documents[metric.task]]
            if not covers(scores, metric, wanted):
                return False
    return True
