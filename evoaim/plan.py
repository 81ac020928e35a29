"""From a recipe to what the kernel does to one tensor: names, precedence, gradients, filters."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from evoaim.errors import ConfigError
from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from search_spaces.anatomy import Anatomy
from search_spaces.errors import SpaceError, unknown
from search_spaces.parameters import Parameter, Setting
from search_spaces.recipe import Recipe, Source, Spec, scalars, value_at

BASE = ""  # key of the engine's base: no model can be named so
IGNORED = {"int8_mask"}  # a memory option of mergekit without effect on the result


@dataclass(frozen=True)
class Planner:
    """A recipe whose model names are known and whose parameters are legal."""

    recipe: Recipe
    method: ModuleType
    base: str | None  # key of the recipe's base model
    experts: tuple[tuple[str, Source], ...]
    anatomy: Anatomy

    @classmethod
    def of(cls, recipe: Recipe, keys: Mapping[str, str], anatomy: Anatomy) -> "Planner":
        """Check a recipe against the models at hand.

        Args:
            recipe: the recipe.
            keys: every name a recipe may use -> the engine's key (BASE or a short name).
            anatomy: of the base model.

        Raises:
            ConfigError, SpaceError: an unknown method, model or parameter, a value out of range,
                a number of experts that the method cannot take.
        """
        method = METHODS[recipe.merge_method]
        base = _key(recipe.base_model, keys) if recipe.base_model is not None else None
        experts = [(_key(s.model, keys), s) for s in recipe.models]
        who = f"merge method '{recipe.merge_method}'"
        if method.BASE != "none":
            if base is None:
                raise ConfigError(f"{who}: needs a base_model")
            experts = [(k, s) for k, s in experts if k != base]
        if method.BASE == "delta" and base != BASE:
            raise ConfigError(
                f"{who}: base_model '{recipe.base_model}' is one of the experts here; "
                "the deltas are taken to the base"
            )
        if not experts:
            raise ConfigError(f"{who}: needs at least one model besides the base")
        if method.MAX_EXPERTS is not None and len(experts) > method.MAX_EXPERTS:
            raise ConfigError(
                f"{who}: takes at most {method.MAX_EXPERTS} model(s) besides the base, "
                f"got {len(experts)}"
            )
        aim_base = recipe.aim.base_model if recipe.aim else None
        if aim_base is not None and _key(aim_base, keys) != BASE:
            raise ConfigError(
                f"aim.base_model: '{aim_base}' is an expert here; AIM relaxes to the base"
            )
        twice = [s.model for i, (k, s) in enumerate(experts) if k in dict(experts[:i])]
        if twice:
            raise ConfigError(f"{who}: '{twice[0]}' is listed twice, under different names")
        settings = [recipe.parameters, *(s.parameters for _, s in experts)]
        for parameters in settings:
            _check(parameters, method.PARAMETERS, who)
        return cls(recipe, method, base, tuple(experts), anatomy)

    def inputs(self, tensor: str) -> Inputs:
        """All parameters of one tensor.

        Raises:
            SpaceError: a required parameter has no value for this tensor.
        """
        depth = self.anatomy.depth(tensor)
        declared: Mapping[str, Parameter] = self.method.PARAMETERS

        def setting(name: str, sources: list[Mapping[str, Spec]]) -> Setting:
            for source in sources:
                value = value_at(source[name], tensor, depth) if name in source else None
                if value is not None:
                    return value
            default = declared[name].default
            if default is None:
                raise SpaceError(
                    f"merge method '{self.recipe.merge_method}': parameter '{name}' has no value "
                    f"for tensor '{tensor}'; give one without a filter"
                )
            return default

        shared = self.recipe.parameters
        own = {
            key: {
                n: setting(n, [source.parameters, shared])
                for n, p in declared.items()
                if p.per_model
            }
            for key, source in self.experts
        }
        return Inputs(
            self.base,
            tuple(key for key, _ in self.experts),
            own,
            {n: setting(n, [shared]) for n, p in declared.items() if not p.per_model},
            self.recipe.seed,
        )


def plan(planner: Planner, tensor: TensorStatistics) -> tuple[Mix, float, float]:
    """What to do to one tensor: the mix, and AIM's omega and gamma (1, 1 without AIM)."""
    mix: Mix = planner.method.mix(tensor, planner.inputs(tensor.name))
    aim = planner.recipe.aim
    if aim is None:
        return mix, 1.0, 1.0
    depth = planner.anatomy.depth(tensor.name)
    omega = value_at(aim.omega, tensor.name, depth)
    gamma = value_at(aim.gamma, tensor.name, depth)
    return mix, 1.0 if omega is None else float(omega), 1.0 if gamma is None else float(gamma)


def notes(recipe: Recipe) -> list[str]:
    """What a reader of the recipe should know: settings without effect."""
    method = METHODS[recipe.merge_method]
    given = [*recipe.parameters, *(p for s in recipe.models for p in s.parameters)]
    idle = sorted({p for p in given if p not in method.PARAMETERS and p not in IGNORED})
    return [f"'{p}' has no effect on {recipe.merge_method}" for p in idle]


def _key(name: str, keys: Mapping[str, str]) -> str:
    if name not in keys:
        raise ConfigError(unknown("model", name, keys))
    return keys[name]


def _check(settings: Mapping[str, Spec], declared: Mapping[str, Parameter], who: str) -> None:
    for name, spec in settings.items():
        if name in IGNORED:
            continue
        if name not in declared:
            # mergekit ignores parameters of other methods; a name that no method has is a typo
            everywhere = {p for m in METHODS for p in METHODS[m].PARAMETERS}
            if name not in everywhere:
                raise SpaceError(f"{who}: {unknown('parameter', name, set(declared) | IGNORED)}")
            continue
        for value in scalars(spec):
            try:
                declared[name].check(name, value)
            except SpaceError as error:
                raise SpaceError(f"{who}: {error}") from None
