"""The merge engine: base, experts and one live model; a recipe becomes weights in one pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evoaim.checkpoint import Checkpoint
from evoaim.compatibility import check_compatible
from evoaim.errors import CandidateError, ConfigError
from evoaim.importance import Importance
from evoaim.kernel import Mix, stream
from evoaim.live import DTYPES, input_axes, load_live, parameter_names, pick_device
from evoaim.plan import BASE, Planner, plan
from evoaim.statistics import TensorStatistics
from search_spaces.anatomy import Anatomy
from search_spaces.recipe import Recipe, scalars


@dataclass(frozen=True)
class MergeEngine:
    """Holds what every candidate needs; build it with `from_pretrained`.

    Weights of base and experts stay memory-mapped on the CPU, or resident on the GPU; the
    arithmetic is float32 with one cast at the end.
    """

    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    live: nn.Module
    importance: Importance | None
    names: Mapping[str, str]  # live parameter -> checkpoint tensor
    axes: Mapping[str, int]
    _statistics: dict[str, TensorStatistics] = field(default_factory=dict, repr=False)
    _resident: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    _files: dict[str, Importance] = field(default_factory=dict, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        base: str,
        experts: Mapping[str, str],
        device: str = "auto",
        dtype: str = "float32",
        importance: Importance | None = None,
    ) -> "MergeEngine":
        """Open the checkpoints, check that they belong together, load one live model.

        Args:
            base: folder or hub id.
            experts: short name -> folder or hub id.
            device: auto, cpu, cuda or cuda:N.
            dtype: of the live model: float32, bfloat16 or float16.
            importance: of the base (see `calibrate`); None: recipes with AIM are refused.

        Raises:
            ConfigError: a model is missing, refused, or does not fit the base.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}': one of {', '.join(DTYPES)} expected")
        where = pick_device(device)
        checkpoint = Checkpoint.open(base)
        others = {short: Checkpoint.open(path) for short, path in experts.items()}
        for other in others.values():
            check_compatible(checkpoint, other)
        live = load_live(checkpoint, DTYPES[dtype], where)
        return cls(
            checkpoint,
            others,
            live,
            importance.to(where) if importance else None,
            parameter_names(live, checkpoint),
            input_axes(live),
        )

    @property
    def anatomy(self) -> Anatomy:
        """Tensor names and depth of the base, for search spaces and gradients."""
        return Anatomy(tuple(self.names.values()), self.base.n_layers)

    @contextmanager
    def materialize(self, recipe: Recipe) -> Iterator[nn.Module]:
        """Write the recipe's merged weights into the live model; they hold inside the block.

        Raises:
            SpaceError, ConfigError: the recipe does not fit the engine's models.
            CandidateError: the merged weights are not finite.
        """
        planner = self.planner(recipe)
        check = torch.zeros((), device=next(self.live.parameters()).device)
        with torch.no_grad():
            for name, parameter in self.live.named_parameters(remove_duplicate=True):
                check += self.merge_into(parameter.data, name, planner)
        if not torch.isfinite(check):
            raise CandidateError("the merged weights are not finite")
        yield self.live

    def planner(self, recipe: Recipe) -> Planner:
        """The recipe, checked against the engine's models and ready to be resolved per tensor."""
        return Planner.of(recipe, self._keys(), self.anatomy)

    def _keys(self) -> dict[str, str]:
        """Every name that a recipe may use -> key of the model.

        Raises:
            ConfigError: a name stands for two models.
        """
        named = [(self.base.name, BASE), (str(self.base.folder), BASE)]
        for short, c in self.experts.items():
            named += [(short, short), (c.name, short), (str(c.folder), short)]
        keys: dict[str, str] = {}
        for name, key in named:
            if keys.setdefault(name, key) != key:
                raise ConfigError(
                    f"models: '{name}' stands for two models, as a short name and as a path or as "
                    "two spellings of one path; rename one"
                )
        keys.setdefault("base", BASE)
        return keys

    def importance_of(self, recipe: Recipe) -> Importance | None:
        """The importance that the recipe names, else the engine's; None if AIM is off.

        Raises:
            ConfigError: AIM is on, and there is no importance or the file is wrong.
        """
        if recipe.aim is None or all(v == 1.0 for v in scalars(recipe.aim.omega)):
            return None
        path = recipe.aim.importance
        if path is None and self.importance is None:
            raise ConfigError(
                "the recipe uses AIM, but no importance was measured; run `evoaim calibrate` and "
                "name its file under aim.importance, or give calibration text"
            )
        if path is None:
            return self.importance
        if path not in self._files:
            loaded = Importance.load(path)
            self._fits(loaded, path)
            self._files[path] = loaded.to(next(self.live.parameters()).device)
        return self._files[path]

    def _fits(self, importance: Importance, path: str) -> None:
        origin = importance.origin.get("base")
        if origin is not None and origin != self.base.content_hash:
            raise ConfigError(
                f"importance '{path}': was measured on another base than '{self.base.name}'; run "
                f"`evoaim calibrate {self.base.name}`"
            )
        shapes = {n: p.shape for n, p in self.live.named_parameters(remove_duplicate=False)}
        for name, channel in importance.channels.items():
            axis = self.axes.get(name, -1)
            if name not in shapes or len(channel) != shapes[name][axis]:
                raise ConfigError(
                    f"importance '{path}': was measured on another model ('{name}' with "
                    f"{len(channel)} channels is no weight of '{self.base.name}'); run "
                    f"`evoaim calibrate {self.base.name}`"
                )

    def merge_into(self, out: Tensor, name: str, planner: Planner) -> Tensor:
        """Write one merged parameter, by its live name; the result is finite iff all of it is."""
        key = self.names[name]
        x0 = self.tensor(BASE, key, out.device)
        mix, omega, gamma = plan(planner, self.statistics(key, out.device))
        experts = {t.model: self.tensor(t.model, key, out.device) for t in mix.terms}
        importance = self.importance_of(planner.recipe)
        factor = None
        if importance is not None:
            factor = importance.factor(name, omega, gamma, self.axes.get(name, -1))
        return stream(out, x0, experts, _without_base(mix), factor)

    def statistics(self, key: str, device: torch.device) -> TensorStatistics:
        """The tensor's statistics, computed at first use and kept."""
        if key not in self._statistics:
            load = lambda model: self.tensor(model, key, device)  # noqa: E731
            self._statistics[key] = TensorStatistics(key, BASE, load)
        return self._statistics[key]

    def tensor(self, model: str, key: str, device: torch.device) -> Tensor:
        """A checkpoint tensor of the base (BASE) or an expert (short name) on a device."""
        if (model, key) not in self._resident:
            checkpoint = self.base if model == BASE else self.experts[model]
            self._resident[model, key] = checkpoint.tensor(key).to(device)
        return self._resident[model, key]


def _without_base(mix: Mix) -> Mix:
    """The base's own delta is zero: it only counts in the coefficient of x0."""
    terms = tuple(t for t in mix.terms if t.model != BASE and t.weight != 0.0)
    return Mix(terms, mix.base, mix.scale, mix.vote, mix.mean)
