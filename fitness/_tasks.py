"""lm-eval tasks by name: from the user's folder, then from lm-eval's bundled ones."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
import yaml
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from fitness.errors import FitnessError, unknown

_BUNDLED = Path(lm_eval.tasks.__file__).parent
_FILE_READERS = frozenset({"arrow", "csv", "json", "parquet", "text"})  # of the datasets library
# what a task's YAML, its Python functions, its templates and its data set raise when they are wrong
TASK_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DatasetsError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TemplateError,
    TypeError,
    ValueError,
    yaml.YAMLError,
)


def cause(error: BaseException) -> str:
    """The kind and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}"


def load_tasks(
    names: Sequence[str], folder: Path | None, allow_unsafe_code: bool
) -> dict[str, dict[str, ConfigurableTask]]:
    """Each name -> its leaf tasks by name (a task is its own leaf; groups and tags have several).

    Raises:
        FitnessError: unknown name, no such folder, a task or its data set cannot be loaded, needs
            images or sound, or executes what the model writes and that is not allowed.
    """
    if folder is not None and not folder.is_dir():
        raise FitnessError(f"task_path: no folder '{folder}'")
    manager = _manager(names, folder)
    index = manager.task_index
    leaves, _ = _reachable(names, index)
    for leaf in leaves:
        if index[leaf].cfg.get("unsafe_code") and not allow_unsafe_code:
            raise FitnessError(
                f"task '{leaf}' executes code that the model writes; run it in a sandbox and set "
                "fitness.allow_unsafe_code: true"
            )
        try:
            index[leaf] = _anchored(index[leaf])
        except TASK_ERRORS as error:
            raise _unloadable(leaf, error) from error
    known: dict[str, ConfigurableTask] = {}
    loaded: dict[str, dict[str, ConfigurableTask]] = {}
    for name in dict.fromkeys(names):
        loaded[name] = _load(manager, name)
        for leaf, task in loaded[name].items():
            if leaf in known and known[leaf].dump_config() != task.dump_config():
                raise FitnessError(f"task '{leaf}' is asked for twice with different settings")
            loaded[name][leaf] = known.setdefault(leaf, task)
    return loaded


def _load(manager: TaskManager, name: str) -> dict[str, ConfigurableTask]:
    try:
        tasks: dict[str, Any] = dict(manager.load([name])["tasks"])
    except TASK_ERRORS as error:
        raise _unloadable(name, error) from error
    for leaf, task in tasks.items():
        if not isinstance(task, ConfigurableTask):
            raise FitnessError(f"task '{leaf}' is written against lm-eval's old interface")
        if getattr(task, "MULTIMODAL", False):
            raise FitnessError(f"task '{leaf}' needs images or sound; only text is scored")
    return tasks


def _unloadable(name: str, error: Exception) -> FitnessError:
    return FitnessError(
        f"task '{name}' cannot be loaded: {cause(error)} (its data set must be a local file, in "
        "the local cache, or reachable)"
    )


def _manager(names: Sequence[str], folder: Path | None) -> TaskManager:
    """An index of the user's folder and of those bundled families that the names need.

    Indexing all 14,000 bundled files takes lm-eval 5 to 18 s; finding and indexing the families
    that mention a name takes 1 to 3. Tags need them all: their members may be anywhere.
    """
    manager = TaskManager(include_path=folder, include_defaults=False)
    index = manager.task_index
    done: set[Path] = set()
    while missing := _reachable(names, index)[1]:
        mentioning = _families(missing)
        families = mentioning - done
        if not families and any(name in _family(f) for f in mentioning for name in missing):
            families = {_BUNDLED} - done  # a tag
        if not families:
            known = set(index) | _bundled_names()
            raise FitnessError(unknown("task", missing[0], known) + _unreadable(folder))
        for family in sorted(families):
            for name, entry in _family(family).items():
                if family == _BUNDLED or entry.kind.name != "TAG":
                    index.setdefault(name, entry)
        done |= families
    return manager


def _reachable(names: Iterable[str], index: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The leaf tasks that names lead to through groups and tags, and the names not indexed."""
    leaves, missing = [], []
    todo, seen = [(name, True) for name in names], set()
    for name, required in todo:
        if name in seen:
            continue
        seen.add(name)
        if name not in index:
            if required:
                missing.append(name)
            continue
        entry = index[name]
        match entry.kind.name:
            case "TAG":
                todo.extend((member, True) for member in sorted(entry.tags))
            case "GROUP":
                todo.extend(_members(entry.cfg.get("task")))
            case _:
                leaves.append(name)
    return leaves, missing


def _members(listing: Any) -> Iterator[tuple[str, bool]]:
    """Names in a group's `task:`; the flag tells a reference from what may be written inline."""
    for item in [listing] if isinstance(listing, str) else listing or []:
        if isinstance(item, str):
            yield item, True
        elif isinstance(item.get("group"), str):
            yield item["group"], False
            yield from _members(item.get("task"))
        elif isinstance(item.get("task"), str):
            yield item["task"], False


def _anchored(entry: Any) -> Any:
    """The index entry with relative `data_files` made relative to the YAML that names them."""
    options = entry.cfg.get("dataset_kwargs") or {}
    if entry.cfg.get("dataset_path") not in _FILE_READERS or "data_files" not in options:
        return entry
    folder = _declaring_folder(entry.yaml_path)
    files = _absolute(options["data_files"], folder)
    config = {**load_yaml(entry.yaml_path), "dataset_kwargs": {**options, "data_files": files}}
    return replace(entry, yaml_path=None, cfg=config)


def _absolute(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {split: _absolute(part, folder) for split, part in files.items()}
    if isinstance(files, list):
        return [_absolute(part, folder) for part in files]
    if "://" in files:
        return files
    path = folder / files  # an absolute one stays as it is
    beside = [folder.joinpath(*path.parts[-n:]) for n in (1, 2)]  # where its folder was moved to
    return str(next((p for p in (path, *beside) if p.exists()), path))


def _declaring_folder(path: Path) -> Path:
    """The folder of the YAML, among a file and its includes, whose `dataset_kwargs` hold."""
    config = load_yaml(path, resolve_func=False, recursive=False)
    includes = config.get("include") or []
    if "dataset_kwargs" not in config:
        for include in reversed([includes] if isinstance(includes, str) else includes):
            below = path.parent / include
            if "dataset_kwargs" in load_yaml(below, resolve_func=False):
                return _declaring_folder(below)
    return path.resolve().parent


@cache
def _bundled() -> dict[Path, str]:
    """Text of every bundled YAML; files that others include often have no suffix."""
    files = sorted(p for p in _BUNDLED.glob("*/**/*") if p.suffix in {"", ".yaml"} and p.is_file())
    return {p: p.read_text(encoding="utf-8", errors="replace") for p in files}


def _bundled_names() -> set[str]:
    pattern = re.compile(r"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
    return {name for text in _bundled().values() for name in pattern.findall(text)}


def _families(names: Iterable[str]) -> set[Path]:
    """The top folders of lm-eval's bundled tasks whose text has one of the names."""
    either = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"(?<![\w-])(?:{either})(?![\w-])")
    return {
        _BUNDLED / path.relative_to(_BUNDLED).parts[0]
        for path, text in _bundled().items()
        if pattern.search(text)
    }


@cache
def _family(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = TaskManager(include_path=folder, include_defaults=False).task_index
    return index


def _unreadable(folder: Path | None) -> str:
    """A sentence on YAML files of the user that the index skipped without a word."""
    for path in sorted(folder.glob("**/*.yaml")) if folder else ():
        try:
            load_yaml(path, resolve_func=False)
        except TASK_ERRORS as error:
            return f"; {path} was skipped, it cannot be read: {cause(error)}"
    return ""
