"""From a recipe to what the kernel does with each tensor: names, filters and defaults resolved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from evoaim.errors import ConfigError
from evoaim.kernel import BASE, Mix
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from search_spaces.anatomy import Anatomy
from search_spaces.dataflow import DataFlow, Flow
from search_spaces.errors import SpaceError, unknown
from search_spaces.parameters import AIM_PARAMETERS, Parameter, Setting
from search_spaces.recipe import Recipe, Spec, scalars, value_at

IGNORED = {"int8_mask"}  # a memory option of mergekit without effect on the result


@dataclass(frozen=True)
class Relaxation:
    """AIM's settings for one tensor; omega 1 is off."""

    omega: float = 1.0
    gamma: float = 1.0
    statistic: str = "mean_abs"
    normalization: str = "max"


@dataclass(frozen=True)
class Planner:
    """A recipe whose model names are known and whose parameters are legal."""

    recipe: Recipe
    method: ModuleType
    base: str | None  # key of the recipe's base model
    data: DataFlow

    @classmethod
    def of(cls, recipe: Recipe, keys: Mapping[str, str], anatomy: Anatomy) -> "Planner":
        """Check a recipe against the models at hand.

        Args:
            recipe: the recipe.
            keys: every name a recipe may use -> the engine's key (BASE or a short name).
            anatomy: of the base model.

        Raises:
            ConfigError, SpaceError: an unknown method, model or parameter, a value out of range,
                a number of experts that the method cannot take, layers that do not exist.
        """
        method = METHODS[recipe.merge_method]
        base = _key(recipe.base_model, keys) if recipe.base_model is not None else None
        who = f"merge method '{recipe.merge_method}'"
        if method.BASE in ("delta", "endpoint") and base is None:
            raise ConfigError(f"{who}: needs a base_model")
        if method.BASE == "delta" and base != BASE:
            raise ConfigError(
                f"{who}: base_model '{recipe.base_model}' is one of the experts here; "
                "the deltas are taken to the base"
            )
        aim_base = recipe.aim.base_model if recipe.aim else None
        if aim_base is not None and _key(aim_base, keys) != BASE:
            raise ConfigError(
                f"aim.base_model: '{aim_base}' is an expert here; AIM relaxes to the base"
            )
        for parameters in recipe.all_parameters:
            _check(parameters, method.PARAMETERS, who)
        planner = cls(recipe, method, base, DataFlow.of(recipe, anatomy, keys, BASE))
        listed = [[s.model for s in part.sources] for part in recipe.slices]
        for models in listed or [[s.model for s in recipe.models]]:
            named = [_key(m, keys) for m in models]
            twice = [m for i, m in enumerate(models) if named[i] != base and named[i] in named[:i]]
            if twice:
                raise ConfigError(f"{who}: '{twice[0]}' is listed twice, under different names")
            _check_number(len(planner.experts(named)), method.EXPERTS, who)
        return planner

    def experts(self, listed: Sequence[str]) -> tuple[str, ...]:
        """The models that the method merges, of those that are listed for a tensor."""
        if self.method.BASE == "none" or self.base is None:
            return tuple(listed)
        if self.method.BASE == "point":
            return tuple(listed) if self.base in listed else (*listed, self.base)
        return tuple(m for m in listed if m != self.base)

    def inputs(self, flow: Flow) -> Inputs:
        """All parameters of one tensor.

        Raises:
            SpaceError: a required parameter has no value for this tensor.
        """
        declared: Mapping[str, Parameter] = self.method.PARAMETERS
        experts = self.experts([f.model for f in flow.feeds])

        def known(name: str, value: Setting | None) -> Setting:
            if value is None:
                value = declared[name].default
            if value is None:
                raise SpaceError(self._missing(name, flow.tensor))
            return value

        per_model = [n for n, p in declared.items() if p.per_model]
        own = {e: {n: known(n, flow.own(n, e)) for n in per_model} for e in experts}
        shared = {n: known(n, flow.shared(n)) for n, p in declared.items() if not p.per_model}
        anatomy = self.data.anatomy
        layer = anatomy.layer(flow.tensor)
        return Inputs(self.base, experts, own, shared, self.recipe.seed, layer, anatomy.n_layers)

    def _missing(self, name: str, tensor: str) -> str:
        who = f"merge method '{self.recipe.merge_method}': parameter '{name}'"
        if any(name in given for given in self.recipe.all_parameters):
            return f"{who} has no value for tensor '{tensor}'; give one without a filter"
        where = "of every model" if self.method.PARAMETERS[name].per_model else "of the recipe"
        return f"{who} is required; give it under the parameters {where}"

    def mix(self, tensor: TensorStatistics, flow: Flow) -> Mix:
        """What to do to one tensor, AIM aside."""
        mix: Mix = self.method.mix(tensor, self.inputs(flow))
        return mix

    def relaxation(self, flow: Flow) -> Relaxation:
        """AIM's settings for one tensor."""
        aim = self.recipe.aim
        if aim is None:
            return Relaxation()
        found = {}
        for name in AIM_PARAMETERS:
            value = value_at(getattr(aim, name), flow.tensor, flow.depth)
            if value is not None:
                found[name] = value
        return Relaxation(**found)  # type: ignore[arg-type]


def notes(recipe: Recipe) -> list[str]:
    """What a reader of the recipe should know: settings without effect."""
    method = METHODS[recipe.merge_method]
    given = [name for parameters in recipe.all_parameters for name in parameters]
    idle = sorted({p for p in given if p not in method.PARAMETERS and p not in IGNORED})
    return [f"'{p}' has no effect on {recipe.merge_method}" for p in idle]


def _key(name: str, keys: Mapping[str, str]) -> str:
    if name not in keys:
        raise ConfigError(unknown("model", name, keys))
    return keys[name]


def _check_number(n: int, limits: tuple[int, int | None], who: str) -> None:
    least, most = limits
    if n < least:
        models = "one model" if least == 1 else f"{least} models"
        raise ConfigError(f"{who}: needs at least {models} besides the base, got {n}")
    if most is not None and n > most:
        raise ConfigError(f"{who}: takes at most {most} model(s) besides the base, got {n}")


def _check(settings: Mapping[str, Spec], declared: Mapping[str, Parameter], who: str) -> None:
    for name, spec in settings.items():
        if name in IGNORED:
            continue
        if name not in declared:
            # mergekit ignores parameters of other methods; a name that no method has is a typo
            if name not in _everywhere():
                raise SpaceError(f"{who}: {unknown('parameter', name, set(declared) | IGNORED)}")
            continue
        for value in scalars(spec):
            try:
                declared[name].check(name, value)
            except SpaceError as error:
                raise SpaceError(f"{who}: {error}") from None


def _everywhere() -> set[str]:
    return {p for m in METHODS for p in METHODS[m].PARAMETERS}
