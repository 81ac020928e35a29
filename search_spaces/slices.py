"""The models that a recipe takes from: whole, or layer ranges of them stacked as slices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.errors import SpaceError, unknown
from search_spaces.settings import Spec, read_settings

# Keys of mergekit's slices that are refused, and what to do instead.
_SLICE_REFUSED = {
    "base_model": "give one base_model for the whole recipe",
    "residual_weight": "leave it out: mergekit reads it and does nothing with it",
}


@dataclass(frozen=True)
class Source:
    """One model of a recipe and the parameters that are its own."""

    model: str
    parameters: Mapping[str, Spec] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `read_source` reads back."""
        data: dict[str, Any] = {"model": self.model}
        return data | ({"parameters": dict(self.parameters)} if self.parameters else {})


@dataclass(frozen=True)
class SliceSource:
    """Layers `layer_range[0]` up to, without, `layer_range[1]` of one model."""

    model: str
    layer_range: tuple[int, int]
    parameters: Mapping[str, Spec] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `read_slice` reads back."""
        data: dict[str, Any] = {"model": self.model, "layer_range": list(self.layer_range)}
        return data | ({"parameters": dict(self.parameters)} if self.parameters else {})


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the output: equally many layers of each source, merged in pairs."""

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Spec] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of output layers."""
        start, end = self.sources[0].layer_range
        return end - start

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `read_slice` reads back."""
        data: dict[str, Any] = {"sources": [s.to_dict() for s in self.sources]}
        return data | ({"parameters": dict(self.parameters)} if self.parameters else {})


def read_source(data: Any, where: str) -> Source:
    """A model under `models:`, in plain data; `where` starts every error message.

    Raises:
        SpaceError: no model, an unknown key, a wrong type.
    """
    if isinstance(data, str):
        return Source(data)
    found = _mapping(data, {"model", "parameters"}, where)
    return Source(
        required_model(found, where), read_settings(data.get("parameters"), f"{where}: parameters")
    )


def read_slices(data: Any, where: str) -> tuple[Slice, ...]:
    """The `slices:` of a recipe in plain data.

    Raises:
        SpaceError: an unknown or unsupported key, an empty slice, sources of different lengths.
    """
    if not isinstance(data, list) or not data:
        raise SpaceError(f"{where}: a list of at least one slice expected")
    return tuple(_slice(d, f"{where}[{i}]") for i, d in enumerate(data))


def unique_models(sources: tuple[Source | SliceSource, ...], where: str) -> None:
    """Refuse a model that is listed twice.

    Raises:
        SpaceError: names the first such model.
    """
    names = [s.model for s in sources]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SpaceError(f"{where}: '{twice[0]}' is listed twice")


def model_name(data: Any, where: str) -> str | None:
    """A model's path, hub id or short name, also from mergekit's long form; None for None.

    Raises:
        SpaceError: something else, or a part of the long form that is not supported.
    """
    if data is None or (isinstance(data, str) and data):
        return data
    if isinstance(data, Mapping) and isinstance(data.get("model"), Mapping):  # mergekit's long form
        for key, value in {**data, **data["model"]}.items():
            if value is not None and key not in ("model", "path"):
                raise SpaceError(f"{where}: '{key}' of mergekit configs is not supported yet")
        return model_name(data["model"].get("path"), where)
    raise SpaceError(f"{where}: a path, hub id or short name expected, got {data!r}")


def required_model(data: Mapping[str, Any], where: str) -> str:
    """The name under the key `model`.

    Raises:
        SpaceError: there is none.
    """
    model = model_name(data.get("model"), f"{where}: model")
    if model is None:
        raise SpaceError(f"{where}: 'model' is missing")
    return model


def _slice(data: Any, where: str) -> Slice:
    if isinstance(data, Mapping):
        for key in _SLICE_REFUSED:
            if data.get(key) is not None:
                raise SpaceError(
                    f"{where}: '{key}' of mergekit's slices is not supported; {_SLICE_REFUSED[key]}"
                )
    found = _mapping(data, {"sources", "parameters", *_SLICE_REFUSED}, where)
    sources = found.get("sources")
    if not isinstance(sources, list) or not sources:
        raise SpaceError(f"{where}: sources: a list of at least one source expected")
    read = tuple(_slice_source(s, f"{where}: sources[{i}]") for i, s in enumerate(sources))
    unique_models(read, f"{where}: sources")
    lengths = {s.model: s.layer_range[1] - s.layer_range[0] for s in read}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{n} of '{m}'" for m, n in lengths.items())
        raise SpaceError(f"{where}: the sources of a slice need equally many layers, got {counts}")
    return Slice(read, read_settings(found.get("parameters"), f"{where}: parameters"))


def _slice_source(data: Any, where: str) -> SliceSource:
    found = _mapping(data, {"model", "layer_range", "parameters"}, where)
    span = found.get("layer_range")
    whole = isinstance(span, list) and all(type(i) is int for i in span)
    if not whole or len(span) != 2:  # type: ignore[arg-type]
        raise SpaceError(
            f"{where}: layer_range: [first, last + 1] in whole numbers expected, got {span!r}"
        )
    start, end = span  # type: ignore[misc]
    if not 0 <= start < end:
        raise SpaceError(
            f"{where}: layer_range: [{start}, {end}] holds no layer; "
            "give the first layer and the one after the last"
        )
    return SliceSource(
        required_model(found, where),
        (start, end),
        read_settings(found.get("parameters"), f"{where}: parameters"),
    )


def _mapping(data: Any, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        shape = "'sources: [...]'" if "sources" in keys else "'model: NAME'"
        raise SpaceError(f"{where}: {shape} expected, got {data!r}")
    for key in data:
        if key not in keys:
            raise SpaceError(f"{where}: {unknown('key', key, keys)}")
    return data
