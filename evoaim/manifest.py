"""What a run was made of: versions and content hashes, so that it can be repeated exactly."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from evoaim.checkpoint import Weights
from evoaim.errors import ConfigError
from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir, read_json, write_json
from evoaim.storage_url import redacted

_PACKAGES = (
    "evoaim",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "lm-eval",
    "datasets",
    "evaluate",
    "accelerate",
    "pymoo",
    "moocore",
    "optuna",
    "cmaes",
    "ray",
    "vllm",
    "numba",
    "numpy",
    "scipy",
    "scikit-learn",
)


def check_manifest(run: RunDir, evaluator: Evaluator, devices: Sequence[str]) -> None:
    """Write manifest.json, or check on resume that models, tasks and documents are the same.

    Other library versions are recorded under `resumed_with`; the replay itself notices whether
    they change what an optimizer proposes.

    Raises:
        ConfigError: something that scores depend on has changed since the run began.
    """
    hashes = {name: m.content_hash for name, m in evaluator.models().items()}
    versions = _versions()
    if not run.manifest.exists():
        device = ", ".join(dict.fromkeys(devices))
        data: dict[str, Any] = {"models": hashes, "versions": versions, "device": device}
        data |= {"revisions": revisions(evaluator.models()), "command": command()}
        data["machine"] = machine()
        if evaluator.blocks:
            text = [block.tolist() for block in evaluator.blocks]
            data["calibration"] = _digest(text)  # of the tokens, not of the file
        data["seed"] = evaluator.experiment.seed
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


def count_seeds(run: RunDir, n: int) -> None:
    """Note how many recipes go first, which is known when base and experts are scored."""
    known = read_json(run.manifest)
    if known.get("seeds") != n:
        write_json(run.manifest, {**known, "seeds": n})


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


def revisions(models: Mapping[str, Weights]) -> dict[str, str]:
    """The commit of each model that came from the hub, by the model's name."""
    # the hub's cache keeps them as models--OWNER--NAME/snapshots/COMMIT
    folders = {name: model.folder.resolve() for name, model in models.items()}
    return {n: f.name for n, f in folders.items() if f.parent.name == "snapshots"}


def source_hash() -> str:
    """A digest of this program's own files: a checkout's version number does not tell its state."""
    root = Path(__file__).parents[1]
    digest = sha256()
    for package in ("evoaim", "fitness", "search_spaces"):
        for file in sorted((root / package).rglob("*")):
            if file.suffix in {".py", ".yaml", ".j2"}:
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def command() -> str:
    """The command line, without where the program lies, passwords in URLs struck out."""
    program, *arguments = sys.argv
    return shlex.join([Path(program).name, *map(redacted, arguments)])


def machine() -> dict[str, Any]:
    """The hardware and what of the environment changes how it is used; never names or keys."""
    settings = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,  # bytes
        "environment": {name: os.environ[name] for name in settings if name in os.environ},
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _digest(data: Any) -> str:
    return sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "evoaim's files": source_hash()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
