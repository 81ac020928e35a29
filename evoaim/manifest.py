"""What a run was made of: versions and content hashes, so that it can be repeated exactly."""

import json
import platform
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evoaim.errors import ConfigError
from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir, read_json, write_json

_PACKAGES = (
    "evoaim",
    "torch",
    "transformers",
    "safetensors",
    "lm-eval",
    "datasets",
    "pymoo",
    "optuna",
    "numpy",
)


def check_manifest(run: RunDir, evaluator: Evaluator) -> None:
    """Write manifest.json, or check on resume that models, tasks and documents are the same.

    Other library versions are recorded under `resumed_with`; the replay itself notices whether
    they change what an optimizer proposes.

    Raises:
        ConfigError: something that scores depend on has changed since the run began.
    """
    hashes = {name: m.content_hash for name, m in evaluator.models().items()}
    versions = _versions()
    if not run.manifest.exists():
        device = str(next(evaluator.engine.live.parameters()).device)
        data: dict[str, Any] = {"models": hashes, "versions": versions, "device": device}
        data["seed"] = evaluator.experiment.seed
        data["seeds"] = len(evaluator.space.seeds())  # recipes that go first
        data["scored"] = _scored(evaluator)
        data["documents"] = {
            split: {task: len(ids) for task, ids in panel.documents.items()}
            for split, panel in evaluator.documents.items()
        }
        write_json(run.manifest, data)
        return
    known = read_json(run.manifest)
    scored = _scored(evaluator)
    moved = [what for what, h in scored.items() if known.get("scored", scored).get(what) != h]
    if moved:
        raise ConfigError(
            f"run directory '{run.path}': {moved[0]} changed since the run began, so new "
            "candidates could not be compared with the recorded ones; give another --run-dir"
        )
    changed = [n for n, h in hashes.items() if known["models"].get(n) != h]
    if changed:
        raise ConfigError(
            f"run directory '{run.path}': the model '{changed[0]}' has changed since the run "
            "began; give another --run-dir"
        )
    if versions != known["versions"]:
        write_json(run.manifest, {**known, "resumed_with": versions})


def identity(evaluator: Evaluator) -> str:
    """A digest of everything that a recorded trial depends on: what may share one study."""
    experiment = evaluator.experiment.to_dict()
    del experiment["budget"], experiment["storage"]
    del experiment["models"]["device"], experiment["models"]["placement"]
    del experiment["fitness"]["batch_size"]
    models = {n: m.content_hash for n, m in evaluator.models().items()}
    return _digest([experiment, models, _scored(evaluator)])


def definitions(evaluator: Evaluator) -> dict[str, str]:
    """Digests of what decides how a document is scored: tokenizer and task definitions."""
    found = {"the tokenizer": _digest(evaluator.engine.base.tokenizer_hashes())}
    for task in evaluator.documents["search"].documents:
        found[f"the definition of {task}"] = _digest(evaluator.scorer.definition(task))
    return found


def _scored(evaluator: Evaluator) -> dict[str, str]:
    """Digests of what candidates are scored on: documents, task definitions, tokenizer."""
    found = definitions(evaluator)
    for split, panel in evaluator.documents.items():
        for task, positions in panel.documents.items():
            hashes = evaluator.scorer.documents(task, split)
            found[f"the {split} documents of {task}"] = _digest([hashes[i] for i in positions])
    return found


def _digest(data: Any) -> str:
    return sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
