"""What a recipe sets a parameter to: one value, a gradient over depth, or filters on names."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from search_spaces.errors import SpaceError

Scalar = float | int | bool | str
# A scalar; a gradient over depth (list of scalars); or filters: [{"filter": str, "value": ...}].
Spec = Scalar | list[Any]
Settings = Mapping[str, Spec]


def value_at(spec: Spec, tensor: str, depth: float) -> Scalar | None:
    """The value that a parameter has for one tensor, `depth` in [0, 1]; None if no filter matches.

    As mergekit: the first filter that is a substring of the name wins; gradients are piecewise
    linear in depth, switches and names take the entry at or below it. Unlike there, a depth of
    i/(L-1) meets entry i of L numbers exactly.
    """
    if not isinstance(spec, list):
        return spec
    if isinstance(spec[0], dict):
        for entry in spec:
            pattern = entry.get("filter")
            if pattern in (None, "*") or pattern in tensor:
                return value_at(entry["value"], tensor, depth)
        return None
    scaled = depth * (len(spec) - 1)
    if isinstance(spec[0], bool | str):
        return spec[int(scaled)]  # type: ignore[no-any-return]
    if abs(scaled - round(scaled)) < 1e-9:
        return float(spec[round(scaled)])
    below = int(scaled)
    above = min(len(spec) - 1, below + 1)
    return float((1 - (scaled - below)) * spec[below] + (scaled - below) * spec[above])


def first_value(name: str, given: Iterable[Settings], tensor: str, depth: float) -> Scalar | None:
    """The value of parameter `name` in the first of the settings that has one for the tensor."""
    for settings in given:
        if name in settings:
            value = value_at(settings[name], tensor, depth)
            if value is not None:
                return value
    return None


def scalars(spec: Spec) -> Iterator[Scalar]:
    """Every scalar that occurs in a parameter's setting."""
    for part in spec if isinstance(spec, list) else [spec]:
        if isinstance(part, dict):
            yield from scalars(part["value"])
        else:
            yield part


def read_settings(data: Any, where: str) -> dict[str, Spec]:
    """The `parameters:` of a recipe in plain data; `where` starts every error message.

    Raises:
        SpaceError: not a mapping of names to settings.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: 'name: value' expected, got {data!r}")
    return {str(name): read_spec(value, f"{where}: {name}") for name, value in data.items()}


def read_spec(data: Any, where: str) -> Spec:
    """One parameter's setting in plain data.

    Raises:
        SpaceError: neither a scalar, nor a gradient, nor filters.
    """
    if isinstance(data, bool | int | float):
        if not abs(data) <= sys.float_info.max:
            raise SpaceError(f"{where}: must be finite, got {data!r}")
        return data
    if isinstance(data, str) and data:
        return data
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, list) or not data:
        raise SpaceError(
            f"{where}: a number, true/false, a name, a list or filters expected, got {data!r}"
        )
    if all(isinstance(x, Mapping) for x in data):
        return [{**e, "value": _filtered(e, where)} for e in data]
    for kind in (bool, str):
        if any(isinstance(x, kind) for x in data):
            break
    else:
        kind = int | float  # type: ignore[assignment]
    if not all(isinstance(x, kind) for x in data):
        raise SpaceError(
            f"{where}: a gradient holds numbers (or only true/false, or only names), got {data!r}"
        )
    return [read_spec(x, where) for x in data]


def _filtered(entry: Mapping[str, Any], where: str) -> Spec:
    if "value" not in entry or not set(entry) <= {"filter", "value"}:
        raise SpaceError(f"{where}: {{filter: TEXT, value: ...}} expected, got {entry!r}")
    pattern, value = entry.get("filter"), entry["value"]
    if not (pattern is None or isinstance(pattern, str)):
        raise SpaceError(f"{where}: filter: a text expected, got {pattern!r}")
    nested = isinstance(value, list) and any(isinstance(x, Mapping) for x in value)
    if nested or isinstance(value, Mapping):
        raise SpaceError(f"{where}: a filter's value cannot hold filters, got {entry!r}")
    return read_spec(value, where)
