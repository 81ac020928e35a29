"""The experiment file: strict YAML to frozen dataclasses, every message names the key."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from evoaim.constraints import Constraint, parse
from evoaim.errors import ConfigError
from evoaim.fitness_config import FitnessConfig, ObjectiveConfig
from evoaim.limits import Limits, Plateau
from evoaim.optimizers._check import check_objectives
from evoaim.optimizers._schedule import Stage, stages
from evoaim.plugins import explain
from evoaim.registry import METHODS, OPTIMIZERS
from evoaim.storage_url import check_url
from search_spaces import strict_yaml
from search_spaces.build import method_names, preset_names, read_preset
from search_spaces.errors import SpaceError

_STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Ge(1)]
_NAME = re.compile(r"\w[\w. -]*")  # of an experiment: it names folders
_SHORT = re.compile(
    r"(?!trial_\d+$|base$)\w[\w-]*"
)  # of an expert: trials' files are named trial_N


@checked(frozen=True, config=_STRICT)
class ModelsConfig:
    """Base and experts (folder or hub id), and how the live model is held."""

    base: str
    experts: dict[str, str]
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: str = "auto"
    placement: Literal["auto", "device", "pinned", "mapped"] = "auto"


@checked(frozen=True, config=_STRICT)
class SpaceConfig:
    """What is searched: a preset, a file, or method and genes written out."""

    preset: str | None = None
    path: str | None = None
    method: Any = None  # a name or a list of names
    genes: dict[str, Any] | None = None
    fixed: dict[str, Any] | None = None
    encoding: str | None = None  # how optimizers see the genes: delta (default), or plain
    layer_groups: Positive = 1
    module_types: list[str] = field(default_factory=list)

    def block(self) -> dict[str, Any]:
        """The `method`, `genes` and `fixed` of the space; genes written out replace the preset's.

        Raises:
            ConfigError, SpaceError: not exactly one of preset, path and method; unknown preset.
        """
        named = [n for n in ("preset", "path", "method") if getattr(self, n) is not None]
        if len(named) != 1:
            raise ConfigError(
                "search_space: exactly one of preset, path and method expected, got "
                f"{', '.join(named) or 'none'} (presets: {', '.join(preset_names())})"
            )
        block: dict[str, Any] = {"method": self.method}
        if self.preset is not None:
            block = read_preset(self.preset)
        if self.path is not None:
            block = strict_yaml.read(self.path)
        for key, own in (("genes", self.genes), ("fixed", self.fixed)):
            given = block.get(key) or {}
            if not isinstance(given, dict):
                raise ConfigError(f"{self.path}: {key}: 'name: ...' lines expected, got {given!r}")
            block[key] = {**given, **(own or {})}
        if self.encoding is not None:
            block["encoding"] = self.encoding
        fixed = set(block["fixed"]) - set(self.genes or {})
        block["genes"] = {k: v for k, v in block["genes"].items() if k not in fixed}
        return block


@checked(frozen=True, config=_STRICT)
class CalibrationConfig:
    """Text on which the base's activations are measured."""

    data: str
    documents: Positive = 256
    block_size: Annotated[int, Ge(2)] = 512


@checked(frozen=True, config=_STRICT)
class PlateauConfig:
    """Stop when the front's hypervolume grew by no more than a share of itself in so many."""

    candidates: Positive = 64
    gain: Annotated[float, Ge(0), Lt(1)] = 0.001


@checked(frozen=True, config=_STRICT)
class BudgetConfig:
    """When the search stops: after so many distinct candidates, minutes of evaluating, a plateau.

    With several workers, as many of the minutes pass at once. `candidate_minutes` is how long a
    worker may be at one candidate before it is taken for lost.
    """

    candidates: Positive | None = None
    minutes: Annotated[float, Gt(0)] | None = None
    plateau: PlateauConfig | None = None
    candidate_minutes: Annotated[float, Gt(0)] | None = None

    def limits(self, workers: int) -> Limits:
        """As the search counts: seconds of all workers together."""
        seconds = None if self.minutes is None else 60 * self.minutes * workers
        p = self.plateau
        plateau = None if p is None else Plateau(p.candidates, p.gain)
        return Limits(self.candidates, seconds, plateau)


@checked(frozen=True, config=_STRICT)
class Experiment:
    """A whole search, as one file describes it."""

    name: str
    models: ModelsConfig
    search_space: SpaceConfig
    objectives: list[ObjectiveConfig]
    optimizer: dict[str, Any] | list[dict[str, Any]]  # a block, or a schedule of them
    budget: BudgetConfig
    fitness: FitnessConfig = field(default_factory=FitnessConfig)
    calibration: CalibrationConfig | None = None
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # what NumPy's generators take
    storage: str | None = None
    keep: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    warm_start: list[str] = field(default_factory=list)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Experiment":
        """Read an experiment file; `overrides` are `key.path=value` texts.

        Raises:
            ConfigError, SpaceError: anything wrong in the file; the message names file and key.
        """
        data = strict_yaml.read(path)
        for text in overrides:
            _override(data, text)
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "experiment") -> "Experiment":
        """The experiment in plain data.

        Raises:
            ConfigError: unknown key, wrong type, value out of range, duplicate names.
        """
        data = dict(data)
        for key in ("keep", "responses", "warm_start"):  # one line needs no list
            if isinstance(data.get(key), str):
                data[key] = [data[key]]
        if isinstance(name := data.get("optimizer"), str):
            kind = name if name in OPTIMIZERS else "nsga2"
            raise ConfigError(
                f"{where}: optimizer: a block such as {{kind: {kind}}} expected, or a list of "
                f"them, got {name!r}"
            )
        try:
            experiment = TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls)}") from None
        try:
            experiment.check()
        except (ConfigError, SpaceError) as error:
            raise ConfigError(f"{where}: {error}") from None
        return experiment

    def check(self) -> None:
        """What types cannot say.

        Raises:
            ConfigError: with the key and what to do.
        """
        if not self.models.experts:
            raise ConfigError("models.experts: at least one expert expected, got none")
        seen = {os.path.normpath(self.models.base): "base"}
        for name, model in self.models.experts.items():
            if not _SHORT.fullmatch(name):
                raise ConfigError(
                    f"models.experts: '{name}' cannot be a short name; "
                    "use letters, digits, - and _, and not 'base' or 'trial_N'"
                )
            twin = seen.setdefault(os.path.normpath(model), name)
            if twin != name:
                raise ConfigError(f"models.experts: '{name}' is the same model as '{twin}'")
        if not self.objectives:
            raise ConfigError("objectives: at least one expected, got none")
        names = [o.name for o in self.objectives]
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"objectives: names must be distinct and not empty, got {names}")
        for o in self.objectives:
            o.check()
        n_optimized = sum(o.goal != "watch" for o in self.objectives)
        if not n_optimized:
            raise ConfigError("objectives: all are watched; at least one to optimize expected")
        if (self.budget.candidates, self.budget.minutes, self.budget.plateau) == (None,) * 3:
            raise ConfigError("budget: give candidates, minutes or plateau, or several of them")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name: letters, digits, spaces, '_', '-' and '.' expected, got {self.name!r}"
            )
        if self.storage is not None:
            check_url(self.storage)
        plan = self.stages()
        self.fitness.plan(self.seed)
        self.constraints()
        block = self.search_space.block()
        for method in method_names(block):
            METHODS[method]
        fixed = block.get("fixed")
        given = {*block["genes"], *(fixed if isinstance(fixed, dict) else ())}
        if self.calibration is None and {"omega", "gamma"} & given:
            raise ConfigError(
                "calibration: the space has AIM's omega, which needs calibration text; give "
                "calibration: {data: FILE.jsonl}"
            )
        for stage in plan:
            check_objectives(stage.kind, n_optimized)

    def stages(self) -> tuple[Stage, ...]:
        """The optimizer, or the optimizers of the schedule, with their checked parameters.

        Raises:
            ConfigError: unknown kind or parameter, value of the wrong type or out of range.
        """
        return stages(self.optimizer)

    def constraints(self) -> tuple[Constraint, ...]:
        """What `keep` asks of every candidate.

        Raises:
            ConfigError: a line that is no comparison, or names no objective or model.
        """
        names = [o.name for o in self.objectives]
        return tuple(parse(line, names, ["base", *self.models.experts]) for line in self.keep)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal experiment."""
        plain: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return plain


def _override(data: dict[str, Any], text: str) -> None:
    """Set one value by its dotted path; the value is read as YAML."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set {text}: key.path=value expected")
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = _step(place, key, text)
    parsed = strict_yaml.parse(f"value: {value}", f"--set {text}")["value"]
    if isinstance(place, list):
        place[_index(place, last, text)] = parsed
    elif isinstance(place, dict):
        place[last] = parsed
    else:
        raise ConfigError(f"--set {text}: '{'.'.join(parents)}' is not a block")


def _step(place: Any, key: str, text: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, key, text)]
    if isinstance(place, dict):
        return place.setdefault(key, {})
    raise ConfigError(f"--set {text}: there is no '{key}' to go into")


def _index(place: list[Any], key: str, text: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise ConfigError(f"--set {text}: an index below {len(place)} expected, got '{key}'")
    return int(key)
