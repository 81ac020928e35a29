"""Builds the demo zoo in a folder, once: skipped when intact, and never left half-built."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evoaim.errors import ConfigError
from evoaim.zoo.documents import write_documents
from evoaim.zoo.language import DOMAINS
from evoaim.zoo.spec import RECIPE_VERSION, ZooSpec

Progress = Callable[[str, float], None]
"""Receives the current stage in words and the share done, in [0, 1]."""

MANIFEST = "zoo.json"
_FULL = ZooSpec()


def build_zoo(folder: Path, progress: Progress | None = None, spec: ZooSpec = _FULL) -> Path:
    """Build the zoo in `folder` and return its path; an intact zoo is left as it is.

    A damaged zoo, or one of another recipe, is replaced; files in its folder that are not the
    zoo's are kept. The work is done beside `folder` and moved into place at the end.

    Raises ConfigError when `folder` holds something else, or cannot be written.
    """
    folder = Path(folder).resolve()
    tell = progress or _silent
    if is_intact(folder, spec):
        tell("the zoo is already there", 1.0)
        return folder
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write beside {folder}: {error.strerror}; name a folder that you may write to"
        ) from error
    with scratch as name:
        fresh = Path(name, "fresh")
        _write(fresh, folder, tell, spec)
        if folder.exists():
            _keep_others(folder, fresh)
            folder.rename(Path(name, "old"))
        fresh.rename(folder)
    tell("done", 1.0)
    return folder


def is_intact(folder: Path, spec: ZooSpec = _FULL) -> bool:
    """Say whether `folder` holds a complete, unchanged zoo of this recipe and `spec`."""
    manifest = _read_manifest(folder)
    if manifest != {**_identity(spec), "files": manifest.get("files")}:
        return False
    files = manifest["files"]
    return isinstance(files, dict) and all(
        Path(folder, name).is_file() and _digest(Path(folder, name)) == digest
        for name, digest in files.items()
    )


def _silent(stage: str, done: float) -> None:
    del stage, done


def _identity(spec: ZooSpec) -> dict[str, Any]:
    return {"recipe": RECIPE_VERSION, "spec": asdict(spec)}


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(Path(folder, MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or Path(folder, MANIFEST).is_file():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder for the demo zoo")
    if any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is not empty and holds no {MANIFEST}, so it is not a demo zoo; "
            "name a new or an empty folder"
        )


def _keep_others(folder: Path, fresh: Path) -> None:
    """Move what is not the old zoo's from `folder` to the same place in `fresh`."""
    replaced = {MANIFEST, *(_read_manifest(folder).get("files") or ())}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        kept = fresh / name
        if path.is_dir() or name.as_posix() in replaced or kept.exists():
            continue
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.rename(kept)


def _write(folder: Path, home: Path, tell: Progress, spec: ZooSpec) -> None:
    # torch and transformers take seconds to import: only a zoo that is really built needs them.
    from evoaim.zoo import folders, training

    tell("writing tasks and texts", 0.0)
    write_documents(folder, home)
    tokenizer = folders.build_tokenizer()
    exercises = training.encode_exercises(tokenizer)
    whole = spec.base_steps + spec.expert_steps * len(DOMAINS)

    def stage(name: str, before: int) -> Callable[[int], None]:
        return lambda step: tell(name, (before + step) / whole)

    on_step = stage("training the base model", 0)
    base = training.train_base(tokenizer, exercises, spec, on_step)
    folders.save_folder(base, tokenizer, folder / "base")
    for place, domain in enumerate(DOMAINS):
        on_step = stage(
            f"training the {domain} expert", spec.base_steps + place * spec.expert_steps
        )
        expert = training.train_expert(base, domain, exercises, spec, on_step)
        folders.save_folder(expert, tokenizer, folder / domain)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in paths}
    manifest = json.dumps({**_identity(spec), "files": files}, indent=2)
    Path(folder, MANIFEST).write_text(f"{manifest}\n", encoding="utf-8")
