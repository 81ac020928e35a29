"""A recipe: mergekit's merge config with an `aim:` block; what to do with which models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces import strict_yaml
from search_spaces.errors import SpaceError, unknown
from search_spaces.parameters import AIM_PARAMETERS
from search_spaces.settings import Scalar, Spec, read_settings, read_spec, scalars, value_at
from search_spaces.slices import (
    Slice,
    SliceSource,
    Source,
    model_name,
    read_slices,
    read_source,
    unique_models,
)
from search_spaces.tokenizer_spec import TokenizerSpec, read_chat_template, read_tokenizer

__all__ = [
    "DTYPES",
    "Aim",
    "Recipe",
    "Scalar",
    "Slice",
    "SliceSource",
    "Source",
    "Spec",
    "scalars",
    "value_at",
]

_KEYS = {
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "aim",
    "seed",
    "statistics",
}
_MOE = "building a mixture of experts is not supported; merge such models with mergekit-moe"
# Keys of mergekit configs that are refused, and what to do instead.
_REFUSED = {
    "modules": "is not supported; list the models under 'models' or 'slices', and use filters to "
    "set parameters for some tensors only",
    "gate_mode": _MOE,
    "experts": _MOE,
    "experts_per_token": _MOE,
    "shared_experts": _MOE,
}
_AIM_KEYS = {*AIM_PARAMETERS, "importance", "base_model"}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Aim:
    """Activation-Informed Merging (arXiv:2502.02421), applied last.

    `y = base + (merged - base) * (1 - I**gamma * (1 - omega))`, I in [0, 1] per input channel:
    omega 1 is AIM off, omega 0 freezes the most active channels at base. `base_model` is the model
    relaxed to (default: the recipe's, else the engine's); `importance` a file written by
    `evoaim calibrate`; how I is made of it, `statistic` and `normalization` say.
    """

    omega: Spec = 1.0
    gamma: Spec = 1.0
    importance: str | None = None
    base_model: str | None = None
    statistic: Spec = "mean_abs"
    normalization: Spec = "max"

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Recipe.from_dict` reads back; what is not said is the default."""
        default = vars(Aim())
        always = ("omega", "gamma")
        return {k: v for k, v in vars(self).items() if k in always or v != default[k]}


@dataclass(frozen=True)
class Recipe:
    """Base, experts, method, hyper-parameters and AIM strength of one merge.

    Models are named by path, hub id or an expert's short name. There are either `models`, merged
    from first to last layer, or `slices` of them, stacked. Parameters of a source go before those
    of its slice, those before the shared ones, and those before the method's defaults.
    """

    merge_method: str
    models: tuple[Source, ...]  # () if there are slices
    base_model: str | None = None
    parameters: Mapping[str, Spec] = field(default_factory=dict)
    aim: Aim | None = None
    seed: int = 0
    dtype: str | None = None
    out_dtype: str | None = None
    slices: tuple[Slice, ...] = ()
    tokenizer: TokenizerSpec | None = None
    chat_template: str | None = None  # auto, a name, or the text of a template
    # model -> file of `evoaim calibrate --statistics`, for methods that need them
    statistics: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source | SliceSource, ...]:
        """Every mention of a model to merge: the models, or the sources of all slices."""
        return self.models or tuple(s for part in self.slices for s in part.sources)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that are merged, each once: the base model first, then as listed."""
        base = () if self.base_model is None else (self.base_model,)
        return tuple(dict.fromkeys((*base, *(s.model for s in self.sources))))

    @property
    def all_parameters(self) -> Iterator[Mapping[str, Spec]]:
        """Every block of parameters: the shared one, those of slices, those of sources."""
        yield self.parameters
        yield from (part.parameters for part in self.slices)
        yield from (s.parameters for s in self.sources)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Read a recipe or mergekit config; files that it names are looked for beside it first.

        Raises:
            SpaceError: missing file, bad YAML, unknown or unsupported key, wrong type.
        """
        recipe = cls.from_dict(strict_yaml.read(path), where=str(path))

        def found(file: str) -> str:
            beside = Path(path).parent / file
            return str(beside) if beside.is_file() else file

        aim = recipe.aim
        if aim is not None and aim.importance is not None:
            aim = replace(aim, importance=found(aim.importance))
        files = {model: found(file) for model, file in recipe.statistics.items()}
        return replace(recipe, aim=aim, statistics=files)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """The recipe in plain data; `where` starts every error message.

        Raises:
            SpaceError: unknown or unsupported key, missing model, wrong type.
        """
        for key in data:
            if key in _REFUSED:
                raise SpaceError(f"{where}: '{key}' of mergekit configs: {_REFUSED[key]}")
            if key not in _KEYS:
                raise SpaceError(f"{where}: {unknown('key', key, _KEYS)}")
        method = data.get("merge_method")
        if not isinstance(method, str):
            raise SpaceError(f"{where}: merge_method: a name expected, got {method!r}")
        seed = data.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise SpaceError(f"{where}: seed: a whole number expected, got {seed!r}")
        models, slices = _sources(data, where)
        return cls(
            merge_method=method,
            models=models,
            base_model=model_name(data.get("base_model"), f"{where}: base_model"),
            parameters=read_settings(data.get("parameters"), f"{where}: parameters"),
            aim=_aim(data.get("aim"), f"{where}: aim"),
            seed=seed,
            dtype=_dtype(data.get("dtype"), f"{where}: dtype"),
            out_dtype=_dtype(data.get("out_dtype"), f"{where}: out_dtype"),
            slices=slices,
            tokenizer=read_tokenizer(data, where),
            chat_template=read_chat_template(data.get("chat_template"), f"{where}: chat_template"),
            statistics=_statistics(data.get("statistics"), f"{where}: statistics"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal recipe."""
        data = self.to_mergekit()
        if self.aim is not None:
            data["aim"] = self.aim.to_dict()
        data["seed"] = self.seed
        return data | ({"statistics": dict(self.statistics)} if self.statistics else {})

    def to_mergekit(self) -> dict[str, Any]:
        """The mergekit config of this recipe; AIM and the mask seed have no place in it."""
        data: dict[str, Any] = {"merge_method": self.merge_method}
        if self.base_model is not None:
            data["base_model"] = self.base_model
        if self.slices:
            data["slices"] = [part.to_dict() for part in self.slices]
        else:
            data["models"] = [s.to_dict() for s in self.models]
        if self.parameters:
            data["parameters"] = dict(self.parameters)
        if self.tokenizer is not None:
            data |= self.tokenizer.to_mergekit()
        optional = ("chat_template", "dtype", "out_dtype")
        return data | {k: v for k in optional if (v := getattr(self, k)) is not None}

    def to_yaml(self) -> str:
        """The text of a recipe file."""
        return strict_yaml.dump(self.to_dict())

    def renamed(self, names: Mapping[str, str]) -> "Recipe":
        """The same recipe with other names for its models; those not in `names` stay."""
        slices = tuple(
            replace(
                part,
                sources=tuple(replace(s, model=names.get(s.model, s.model)) for s in part.sources),
            )
            for part in self.slices
        )
        aim = self.aim
        if aim is not None and aim.base_model is not None:
            aim = replace(aim, base_model=names.get(aim.base_model, aim.base_model))
        return replace(
            self,
            base_model=names.get(self.base_model or "", self.base_model),
            models=tuple(replace(s, model=names.get(s.model, s.model)) for s in self.models),
            slices=slices,
            aim=aim,
            tokenizer=self.tokenizer and self.tokenizer.renamed(names),
            statistics={names.get(m, m): file for m, file in self.statistics.items()},
        )


def _sources(data: Mapping[str, Any], where: str) -> tuple[tuple[Source, ...], tuple[Slice, ...]]:
    if data.get("slices") is not None:
        if data.get("models") is not None:
            raise SpaceError(f"{where}: give models or slices, not both")
        return (), read_slices(data["slices"], f"{where}: slices")
    models = data.get("models")
    if not isinstance(models, list) or not models:
        raise SpaceError(f"{where}: models: a list of at least one model expected")
    sources = tuple(read_source(m, f"{where}: models[{i}]") for i, m in enumerate(models))
    unique_models(sources, f"{where}: models")
    return sources, ()


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
        specs[name] = read_spec(data.get(name, declared.default), f"{where}: {name}")
        for value in scalars(specs[name]):
            try:
                declared.check(name, value)
            except SpaceError as error:
                raise SpaceError(f"{where}: {error}") from None
    return Aim(
        **specs,
        importance=model_name(data.get("importance"), f"{where}: importance"),
        base_model=model_name(data.get("base_model"), f"{where}: base_model"),
    )


def _statistics(data: Any, where: str) -> dict[str, str]:
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(f, str) and f for f in data.values()):
        raise SpaceError(f"{where}: 'MODEL: FILE' lines expected, got {data!r}")
    return {str(model): str(file) for model, file in data.items()}


def _dtype(data: Any, where: str) -> str | None:
    if data is None or data in DTYPES:
        return data  # type: ignore[no-any-return]
    raise SpaceError(f"{where}: one of {', '.join(DTYPES)} expected, got {data!r}")
