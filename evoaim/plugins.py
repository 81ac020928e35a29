"""Plugins as an experiment names them, and pydantic's complaints in the words of this project."""

import re
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from evoaim.errors import ConfigError
from evoaim.registry import Registry
from search_spaces.errors import unknown

_KIND = re.compile(r"[A-Z]\w*Config|bool|int|float|str|constrained-\w+|\w+\[.*\]")


def plugin(block: Mapping[str, Any], registry: Registry, where: str) -> tuple[Any, Any]:
    """The module and the checked parameters of a `{kind: NAME, ...}` block.

    Raises:
        ConfigError: unknown kind or parameter, value of the wrong type or out of range.
    """
    options = dict(block)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(f"{where}.kind: one of {', '.join(registry)} expected, got {kind!r}")
    try:
        module = registry[kind]
    except ConfigError as error:
        raise ConfigError(f"{where}.kind: {error}") from None
    known = get_type_hints(module.Params)
    for key in options:
        if key not in known:
            raise ConfigError(f"{where}: {unknown(f'parameter of {kind}', key, known)}")
    try:
        return module, TypeAdapter(module.Params).validate_python(options)
    except ValidationError as error:
        raise ConfigError(f"{where}.{explain(error, module.Params)}") from None


def explain(error: ValidationError, root: type) -> str:
    """An unknown key, else the first problem, as `key.path: what is wrong, what is allowed`."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "unexpected_keyword_argument"), problems[0])
    path = _keys(problem["loc"])
    where = ".".join(path)
    if problem["type"] == "unexpected_keyword_argument":
        return f"{where}: {unknown('key', path[-1], _fields(root, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: is missing"
    # of a value that may be one of several kinds, every kind has its own complaint
    texts = dict.fromkeys(_text(p) for p in problems if _keys(p["loc"]) == path)
    got = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    return f"{where}: {', or '.join(texts)}{got}"


def _keys(place: tuple[str | int, ...]) -> list[str]:
    """The keys that the user wrote, without pydantic's names of the kinds of a value."""
    return [str(p) for p in place if not _KIND.fullmatch(str(p))]


def _text(problem: Any) -> str:
    if problem["type"] in ("dataclass_type", "dict_type"):
        return "'key: value' lines expected"
    if problem["type"] == "list_type":
        return "a list expected"
    if problem["type"].startswith("bool"):
        return "yes or no"
    text = str(problem["msg"])
    return f"{text[0].lower()}{text[1:]}"


def _fields(root: type, path: list[str]) -> list[str]:
    """Field names of the dataclass at a path of keys."""
    kind: Any = root
    for key in path:
        if key.isdigit():
            continue
        hint = get_type_hints(kind)[key]
        options = [hint, *get_args(hint)]
        kind = next((h for h in options if hasattr(h, "__dataclass_fields__")), kind)
    return list(get_type_hints(kind))
