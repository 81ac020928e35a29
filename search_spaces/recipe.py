"""A recipe: mergekit's merge config with an `aim:` block; what to do with which models."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces import strict_yaml
from search_spaces.errors import SpaceError, unknown
from search_spaces.parameters import AIM_PARAMETERS

Scalar = float | int | bool
# A scalar; a gradient over depth (list of scalars); or filters: [{"filter": str, "value": ...}].
Spec = Scalar | list[Any]

_KEYS = {
    "merge_method",
    "base_model",
    "models",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "aim",
    "seed",
}
_UNSUPPORTED = {"slices", "modules", "tokenizer", "chat_template"}
_AIM_KEYS = {"omega", "gamma", "importance", "base_model"}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """One model of a recipe and the parameters that are its own."""

    model: str
    parameters: Mapping[str, Spec] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """Activation-Informed Merging (arXiv:2502.02421), applied last.

    `y = base + (merged - base) * (1 - I**gamma * (1 - omega))`, I in [0, 1] per input channel:
    omega 1 is AIM off, omega 0 freezes the most active channels at base. `base_model` is the model
    relaxed to (default: the recipe's, else the engine's); `importance` a file written by
    `evoaim calibrate`.
    """

    omega: Spec = 1.0
    gamma: Spec = 1.0
    importance: str | None = None
    base_model: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Base, experts, method, hyper-parameters and AIM strength of one merge.

    Models are named by path, hub id or an expert's short name. Parameters of a source go before
    the shared ones, and those before the method's defaults.
    """

    merge_method: str
    models: tuple[Source, ...]
    base_model: str | None = None
    parameters: Mapping[str, Spec] = field(default_factory=dict)
    aim: Aim | None = None
    seed: int = 0
    dtype: str | None = None
    out_dtype: str | None = None

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Read a recipe or mergekit config; an importance file is looked for beside it first.

        Raises:
            SpaceError: missing file, bad YAML, unknown or unsupported key, wrong type.
        """
        recipe = cls.from_dict(strict_yaml.read(path), where=str(path))
        aim = recipe.aim
        if aim is None or aim.importance is None:
            return recipe
        beside = Path(path).parent / aim.importance
        if not beside.is_file():
            return recipe
        return replace(recipe, aim=replace(aim, importance=str(beside)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """The recipe in plain data; `where` starts every error message.

        Raises:
            SpaceError: unknown or unsupported key, missing model, wrong type.
        """
        for key in data:
            if key in _UNSUPPORTED:
                raise SpaceError(f"{where}: '{key}' of mergekit configs is not supported yet")
            if key not in _KEYS:
                raise SpaceError(f"{where}: {unknown('key', key, _KEYS)}")
        if data.get("tokenizer_source") not in (None, "base"):
            raise SpaceError(
                f"{where}: tokenizer_source {data['tokenizer_source']!r} is not supported yet; "
                "the base model's tokenizer is used (leave it out, or say 'base')"
            )
        method = data.get("merge_method")
        if not isinstance(method, str):
            raise SpaceError(f"{where}: merge_method: a name expected, got {method!r}")
        models = data.get("models")
        if not isinstance(models, list) or not models:
            raise SpaceError(f"{where}: models: a list of at least one model expected")
        seed = data.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise SpaceError(f"{where}: seed: a whole number expected, got {seed!r}")
        sources = tuple(_source(m, f"{where}: models[{i}]") for i, m in enumerate(models))
        names = [s.model for s in sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise SpaceError(f"{where}: models: '{twice[0]}' is listed twice")
        return cls(
            merge_method=method,
            models=sources,
            base_model=_text(data.get("base_model"), f"{where}: base_model"),
            parameters=_parameters(data.get("parameters"), f"{where}: parameters"),
            aim=_aim(data.get("aim"), f"{where}: aim"),
            seed=seed,
            dtype=_dtype(data.get("dtype"), f"{where}: dtype"),
            out_dtype=_dtype(data.get("out_dtype"), f"{where}: out_dtype"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal recipe."""
        data = self.to_mergekit()
        if self.aim is not None:
            block = {"omega": self.aim.omega, "gamma": self.aim.gamma}
            optional = {"importance": self.aim.importance, "base_model": self.aim.base_model}
            data["aim"] = block | {k: v for k, v in optional.items() if v is not None}
        data["seed"] = self.seed
        return data

    def to_mergekit(self) -> dict[str, Any]:
        """The mergekit config of this recipe; AIM and the mask seed have no place in it."""
        data: dict[str, Any] = {"merge_method": self.merge_method}
        if self.base_model is not None:
            data["base_model"] = self.base_model
        data["models"] = [
            {"model": s.model} | ({"parameters": dict(s.parameters)} if s.parameters else {})
            for s in self.models
        ]
        if self.parameters:
            data["parameters"] = dict(self.parameters)
        data |= {k: v for k in ("dtype", "out_dtype") if (v := getattr(self, k)) is not None}
        return data

    def to_yaml(self) -> str:
        """The text of a recipe file."""
        return strict_yaml.dump(self.to_dict())


def value_at(spec: Spec, tensor: str, depth: float) -> Scalar | None:
    """The value that a parameter has for one tensor, `depth` in [0, 1]; None if no filter matches.

    As mergekit: the first filter that is a substring of the name wins; gradients are piecewise
    linear in depth, switches take the entry at or below it. Unlike there, a depth of i/(L-1) meets
    entry i of L numbers exactly.
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
    if isinstance(spec[0], bool):
        return bool(spec[int(scaled)])
    if abs(scaled - round(scaled)) < 1e-9:
        return float(spec[round(scaled)])
    below = int(scaled)
    above = min(len(spec) - 1, below + 1)
    return float((1 - (scaled - below)) * spec[below] + (scaled - below) * spec[above])


def scalars(spec: Spec) -> Iterator[Scalar]:
    """Every scalar that occurs in a parameter's setting."""
    for part in spec if isinstance(spec, list) else [spec]:
        if isinstance(part, dict):
            yield from scalars(part["value"])
        else:
            yield part


def _source(data: Any, where: str) -> Source:
    if isinstance(data, str):
        return Source(data)
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: 'model: NAME' expected, got {data!r}")
    for key in data:
        if key not in ("model", "parameters"):
            raise SpaceError(f"{where}: {unknown('key', key, ['model', 'parameters'])}")
    model = _text(data.get("model"), f"{where}: model")
    if model is None:
        raise SpaceError(f"{where}: 'model' is missing")
    return Source(model, _parameters(data.get("parameters"), f"{where}: parameters"))


def _parameters(data: Any, where: str) -> dict[str, Spec]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: 'name: value' expected, got {data!r}")
    return {str(name): _spec(value, f"{where}: {name}") for name, value in data.items()}


def _spec(data: Any, where: str) -> Spec:
    if isinstance(data, bool | int | float):
        if not abs(data) <= sys.float_info.max:
            raise SpaceError(f"{where}: must be finite, got {data!r}")
        return data
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, list) or not data:
        raise SpaceError(f"{where}: a number, true/false, a list or filters expected, got {data!r}")
    if all(isinstance(x, Mapping) for x in data):
        for entry in data:
            if "value" not in entry or not set(entry) <= {"filter", "value"}:
                raise SpaceError(f"{where}: {{filter: TEXT, value: ...}} expected, got {entry!r}")
            pattern = entry.get("filter")
            if not (pattern is None or isinstance(pattern, str)):
                raise SpaceError(f"{where}: filter: a text expected, got {pattern!r}")
            if isinstance(entry["value"], Mapping) or _holds(entry["value"], Mapping):
                raise SpaceError(f"{where}: a filter's value cannot hold filters, got {entry!r}")
        return [{**e, "value": _spec(e["value"], where)} for e in data]
    switches = _holds(data, bool)
    if not all(isinstance(x, bool if switches else int | float) for x in data):
        raise SpaceError(f"{where}: a gradient holds numbers (or only true/false), got {data!r}")
    return [_spec(x, where) for x in data]


def _holds(data: Any, kind: type) -> bool:
    return isinstance(data, list) and any(isinstance(x, kind) for x in data)


def _aim(data: Any, where: str) -> Aim | None:
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: 'omega: NUMBER' expected, got {data!r}")
    for key in data:
        if key not in _AIM_KEYS:
            raise SpaceError(f"{where}: {unknown('key', key, _AIM_KEYS)}")
    specs = {}
    for name, declared in AIM_PARAMETERS.items():
        specs[name] = _spec(data.get(name, declared.default), f"{where}: {name}")
        for value in scalars(specs[name]):
            try:
                declared.check(name, value)
            except SpaceError as error:
                raise SpaceError(f"{where}: {error}") from None
    return Aim(
        omega=specs["omega"],
        gamma=specs["gamma"],
        importance=_text(data.get("importance"), f"{where}: importance"),
        base_model=_text(data.get("base_model"), f"{where}: base_model"),
    )


def _text(data: Any, where: str) -> str | None:
    if data is None or (isinstance(data, str) and data):
        return data
    if isinstance(data, Mapping) and isinstance(data.get("model"), Mapping):  # mergekit's long form
        for key, value in {**data, **data["model"]}.items():
            if value is not None and key not in ("model", "path"):
                raise SpaceError(f"{where}: '{key}' of mergekit configs is not supported yet")
        return _text(data["model"].get("path"), where)
    raise SpaceError(f"{where}: a path, hub id or short name expected, got {data!r}")


def _dtype(data: Any, where: str) -> str | None:
    if data is None or data in DTYPES:
        return data  # type: ignore[no-any-return]
    raise SpaceError(f"{where}: one of {', '.join(DTYPES)} expected, got {data!r}")
