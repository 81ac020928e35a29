"""Base, experts and their statistics: a recipe becomes tensors, without a live model."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint, Weights
from evoaim.compatibility import check_compatible, non_finite
from evoaim.data_statistics import DataStatistics, lookup, open_files
from evoaim.errors import CandidateError, ConfigError
from evoaim.importance import Importance
from evoaim.kernel import BASE, Relax, Source, Written, stream
from evoaim.live import pick_device
from evoaim.lora import open_expert
from evoaim.naming import names_of
from evoaim.placement import Demand, Machine, Placement, place
from evoaim.plan import Planner
from evoaim.statistics import TensorStatistics
from evoaim.store import Store, open_store
from evoaim.tokenizer import OutputTokenizer
from evoaim.vocabulary import align
from evoaim.whole import Whole
from search_spaces.anatomy import Anatomy
from search_spaces.dataflow import Flow
from search_spaces.recipe import Recipe, scalars
from search_spaces.tokenizer_spec import TokenizerSpec

COMPUTED = 6  # low-rank experts' tensors that statistics hold at a time
T = TypeVar("T")


@dataclass(frozen=True)
class Merger:
    """Everything that stays the same from recipe to recipe; build it with `open`.

    Tensors are named as in the base's checkpoint. The arithmetic is float32 with one cast at the
    end.
    """

    base: Checkpoint
    models: Mapping[str, Weights]  # the base (BASE) and the experts, vocabularies aligned
    blueprint: Blueprint
    store: Store
    placement: Placement
    importance: Importance | None = None
    tokenizer: OutputTokenizer | None = None  # None: the base's
    vocabulary: TokenizerSpec | None = None  # what recipes may ask for
    measured: Mapping[str, DataStatistics] = field(default_factory=dict)  # on text, by model
    _statistics: dict[tuple[str, ...], TensorStatistics] = field(default_factory=dict, repr=False)
    _files: dict[str, Importance] = field(default_factory=dict, repr=False)
    _computed: "OrderedDict[tuple[str, str, str], object]" = field(
        default_factory=OrderedDict, repr=False
    )

    @classmethod
    def open(
        cls,
        base: str,
        experts: Mapping[str, str],
        device: str = "auto",
        placement: str = "auto",
        live: torch.dtype | None = None,
        like: Recipe | None = None,
    ) -> "Merger":
        """Open the checkpoints, check that they belong together, plan where they are held.

        Args:
            base: folder or hub id.
            experts: short name -> folder or hub id of a checkpoint or a LoRA adapter.
            device: auto, cpu, cuda or cuda:N.
            placement: auto, device, pinned or mapped (see `evoaim.placement`).
            live: dtype of a live model that shall fit beside them; None: there will be none.
            like: a recipe whose tokenizer settings hold for all; None: one vocabulary.

        Raises:
            ConfigError: a model is missing, refused, or does not fit the base, or there is not
                enough memory.
        """
        where = pick_device(device)
        checkpoint = Checkpoint.open(base)
        blueprint = Blueprint.of(checkpoint)
        others = {
            short: open_expert(path, checkpoint, blueprint) for short, path in experts.items()
        }
        stored: dict[str, Weights] = {BASE: checkpoint, **others}
        spec = like.tokenizer if like else None
        for other in others.values():
            check_compatible(checkpoint, other, spec is not None)
        models: Mapping[str, Weights] = stored
        tokenizer = None
        if like is not None and spec is not None:
            names = names_of(checkpoint, others)
            first = names.get(like.base_model) if like.base_model is not None else None
            aligned = align(stored, spec.renamed(names), first)
            models, tokenizer = aligned.models, aligned.tokenizer
            shapes = models[BASE].shapes
            blueprint = replace(blueprint, shapes={k: shapes[k] for k in blueprint.shapes})
        plan = place(Demand.of(models[BASE], others, live), Machine.here(where), placement)
        store = open_store(plan, models, tuple(blueprint.places))
        return cls(checkpoint, models, blueprint, store, plan, None, tokenizer, spec)

    @property
    def device(self) -> torch.device:
        """Where tensors are merged."""
        return self.placement.machine.device

    @property
    def experts(self) -> Mapping[str, Weights]:
        """The experts by short name."""
        return {m: w for m, w in self.models.items() if m != BASE}

    def with_importance(self, importance: Importance) -> "Merger":
        """The same with the base's importance."""
        return replace(self, importance=importance.fitted(self.blueprint).to(self.device))

    def with_statistics(self, measured: Mapping[str, DataStatistics]) -> "Merger":
        """The same with statistics on text, by key of the model (BASE or a short name).

        Raises:
            ConfigError: they are of another model.
        """
        for model, found in measured.items():
            found.check(self.models[model].content_hash, self.models[model].name)
        return replace(self, measured=dict(measured), _statistics={})

    def with_statistics_of(self, recipe: Recipe) -> "Merger":
        """The same with the statistics files that a recipe names, if it names any.

        Raises:
            ConfigError: an unknown model, or a file that is missing or wrong.
        """
        if not recipe.statistics:
            return self
        names = names_of(self.base, self.experts)
        return self.with_statistics(open_files(recipe.statistics, names))

    @property
    def anatomy(self) -> Anatomy:
        """Tensor names and depth of the base, for search spaces and gradients."""
        return Anatomy(tuple(self.blueprint.places), self.base.n_layers)

    def planner(self, recipe: Recipe) -> Planner:
        """The recipe, checked against the models and ready to be resolved per tensor.

        Raises:
            SpaceError, ConfigError: the recipe does not fit the models.
        """
        if recipe.tokenizer is not None and recipe.tokenizer != self.vocabulary:
            raise ConfigError(
                "the recipe sets a tokenizer, but the models were opened without it, or with "
                "another one; open them with this recipe's"
            )
        return Planner.of(recipe, names_of(self.base, self.experts), self.anatomy)

    def merge_into(self, out: Tensor, key: str, planner: Planner) -> Written:
        """Start writing one merged tensor (*s) into `out` (*s), on the merger's device.

        Args:
            out: any float dtype.
            key: of the tensor in the merged checkpoint (`planner.data.anatomy`).
            planner: of the recipe.
        """
        if out.numel() == 0:
            return Written()
        flow = planner.data.flow(key)
        mix = planner.mix(self.statistics(flow), flow)
        sources = {BASE: (self.store.tensor(BASE, flow.source(BASE)), False)}
        for term in mix.terms:
            sources[term.model] = self._source(term.model, flow)
        return stream(out, sources, mix, self._relax(planner, flow))

    def check_finite(self, written: Mapping[str, Written], planner: Planner) -> None:
        """Wait for tensors, by key.

        Raises:
            CandidateError: one of them is not finite; says whose weights are to blame.
        """
        wrong = [key for key, part in written.items() if not part.finite()]
        if wrong:
            raise CandidateError(self._blame(wrong[0], planner))

    def importance_of(self, recipe: Recipe) -> Importance | None:
        """The importance that the recipe names, else the merger's; None if AIM is off.

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
            self._files[path] = self._loaded(path)
        return self._files[path]

    def statistics(self, flow: Flow) -> TensorStatistics:
        """The statistics of what goes into one tensor, computed at first use and kept."""
        return self._statistics_of(flow.tensor, {m: flow.source(m) for m in self.models})

    def _statistics_of(self, name: str, origins: Mapping[str, str]) -> TensorStatistics:
        at = (name, *origins.values())
        if at in self._statistics:
            return self._statistics[at]
        models = self.models

        def delta_of(model: str) -> Tensor | None:
            # a low-rank delta is to the base's tensor of the same key
            if model == BASE or origins[model] != origins[BASE]:
                return None
            weights, key = models[model], origins[model]
            if not weights.touches(key):
                return None
            return self._lately(("delta", model, key), lambda: weights.delta(key))

        def load(model: str) -> Tensor:
            if delta_of(model) is None:
                return self.store.host(model, origins[model])
            weights, key = models[model], origins[model]
            return self._lately(("whole", model, key), lambda: weights.tensor(key))

        def measured(model: str, kind: str) -> Tensor | None:
            return lookup(self.measured.get(model), kind, origins[model], models[model].name)

        kind, axis = self.blueprint.kinds[origins[BASE]], self.blueprint.axes[origins[BASE]]
        self._statistics[at] = TensorStatistics(
            name, load, delta_of, self._whole, kind, axis, self.device, measured
        )
        return self._statistics[at]

    def _lately(self, key: tuple[str, str, str], compute: Callable[[], T]) -> T:
        """A computed tensor: statistics ask for it once a chunk, and for few at a time."""
        if key not in self._computed:
            self._computed[key] = compute()
        self._computed.move_to_end(key)
        if len(self._computed) > COMPUTED:
            self._computed.popitem(last=False)
        return cast(T, self._computed[key])

    @cached_property
    def _whole(self) -> Whole:
        def every() -> dict[str, TensorStatistics]:
            places = self.blueprint.places
            return {k: self._statistics_of(k, dict.fromkeys(self.models, k)) for k in places}

        return Whole(every)

    def _relax(self, planner: Planner, flow: Flow) -> Relax | None:
        importance = self.importance_of(planner.recipe)
        if importance is None:
            return None
        aim, key = planner.relaxation(flow), flow.source(BASE)
        if aim.omega == 1.0:
            return None
        shaped = importance.shaped(
            key, aim.gamma, self.blueprint.axes[key], aim.statistic, aim.normalization
        )
        return Relax(shaped, 1.0 - aim.omega) if shaped is not None else None

    def _source(self, model: str, flow: Flow) -> Source:
        weights, key = self.models[model], flow.source(model)
        if not weights.touches(key):
            return self.store.tensor(BASE, key), False
        delta = weights.delta(key) if key == flow.source(BASE) else None
        if delta is not None:
            return delta.to(self.device), True
        return self.store.tensor(model, key), False

    def _loaded(self, path: str) -> Importance:
        loaded = Importance.load(path)
        origin = loaded.origin.get("base")
        if origin is not None and origin != self.base.content_hash:
            raise ConfigError(
                f"importance '{path}': was measured on another base than '{self.base.name}'; run "
                f"`evoaim calibrate {self.base.name}`"
            )
        try:
            return loaded.fitted(self.blueprint).to(self.device)
        except ConfigError as error:
            raise ConfigError(f"importance '{path}': {error}") from None

    def _blame(self, key: str, planner: Planner) -> str:
        flow = planner.data.flow(key)
        for model, weights in self.models.items():
            reason = non_finite(weights, flow.source(model))
            if reason is not None:
                return reason
        return f"the merged weights of '{key}' are not finite"
