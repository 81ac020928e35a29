"""What a run was made of: versions and content hashes, so that it can be repeated exactly."""

import platform
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
    """Write manifest.json, or check on resume that the models are still the same.

    Other library versions are recorded under `resumed_with`; the replay itself notices whether
    they change what an optimizer proposes.

    Raises:
        ConfigError: a model's content has changed since the run began.
    """
    models = {"base": evaluator.engine.base, **evaluator.engine.experts}
    hashes = {name: m.content_hash for name, m in models.items()}
    versions = _versions()
    if not run.manifest.exists():
        device = str(next(evaluator.engine.live.parameters()).device)
        data: dict[str, Any] = {"models": hashes, "versions": versions, "device": device}
        data["seed"] = evaluator.experiment.seed
        data["seeds"] = len(evaluator.space.seeds())  # recipes that go first
        data["documents"] = {
            split: {task: len(ids) for task, ids in panel.documents.items()}
            for split, panel in evaluator.panels.items()
        }
        write_json(run.manifest, data)
        return
    known = read_json(run.manifest)
    changed = [n for n, h in hashes.items() if known["models"].get(n) != h]
    if changed:
        raise ConfigError(
            f"run directory '{run.path}': the model '{changed[0]}' has changed since the run "
            "began; give another --run-dir"
        )
    if versions != known["versions"]:
        write_json(run.manifest, {**known, "resumed_with": versions})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
