"""YAML from strangers: safe, YAML 1.2 scalars, no duplicate keys, no aliases, a size limit."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import SpaceError

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what silently goes wrong."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                "aliases (*name) are not accepted; write the value out",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"tags are not accepted; leave '{event.tag}' out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key '{key}'", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


# YAML 1.1 reads `no` as False, 010 as 8, 1:30 as 90 and 1e-3 as a string; YAML 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in pairs if tag.endswith(":null")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def parse(text: str, where: str) -> dict[str, Any]:
    """The mapping that `text` holds.

    Raises:
        SpaceError: not YAML, not a mapping, a duplicate key, an alias, a tag, or too large; the
            message starts with `where` and carries line and column.
    """
    if len(text) > MAX_BYTES:
        raise _too_large(where)
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpaceError(f"{where}:{place} {problem}") from None
    except RecursionError:
        raise SpaceError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from None
    if data is None:
        raise SpaceError(f"{where}: is empty; expected 'key: value' lines")
    if not isinstance(data, dict):
        raise SpaceError(f"{where}: expected 'key: value' lines, got {type(data).__name__}")
    for key in data:
        if not isinstance(key, str):
            raise SpaceError(f"{where}: key {key!r}: a name expected; quote it if it is one")
    return data


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SpaceError: the file is missing, unreadable, or wrong (see `parse`).
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise _too_large(str(path))
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise SpaceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return parse(text, str(path))


def _too_large(where: str) -> SpaceError:
    return SpaceError(f"{where}: larger than {MAX_BYTES} bytes; is this a YAML config?")


_FASTEST: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, if PyYAML has it


def dump(data: dict[str, Any]) -> str:
    """YAML text of plain data, keys in their order, short lists on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(_FASTEST):  # type: ignore[misc]
    """A safe dumper without aliases (`parse` refuses them) and with number lists on one line."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


# Quote whatever either YAML version would read as something else than text.
_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeLoader.yaml_implicit_resolvers.get(first, [])
    + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeLoader.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def _list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    scalars = all(isinstance(x, int | float | str) for x in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=scalars)


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    breaks = any(c in data for c in "\x85\u2028\u2029")  # which PyYAML loses outside of quotes
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style='"' if breaks else None)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
