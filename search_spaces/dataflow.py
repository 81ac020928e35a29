"""Which tensors of which models become which tensor of the output, and with which parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from search_spaces.anatomy import Anatomy
from search_spaces.errors import SpaceError, unknown
from search_spaces.recipe import Recipe
from search_spaces.settings import Scalar, Settings, first_value

# What comes before the first layer, over the architectures of transformers; everything else that
# lies outside of the layers (final norm, head) comes after the last one.
_FRONT = re.compile(r"embed|wte|wpe|embd|relative_pe|rotary|position|project_in")
_NOT_FRONT = re.compile(r"embed_out|embedding_norm")  # GPT-NeoX's head, LFM2's final norm
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
# Config lists that hold layer numbers, rather than one entry a layer.
_LAYER_NUMBERS = re.compile(
    r"(mlp_only|moe|cross_attention|full_attn|attn)_(layers|layer_indices)$"
)
_NO_LAYERS = re.compile(r"architectures|_ids?$|_tokens?$")


@dataclass(frozen=True)
class Feed:
    """What one model gives to one output tensor.

    Args:
        model: key of the model.
        tensor: name of the tensor in the model's checkpoint; per-model filters test this name.
        given: the model's settings, those that go first in front: source, slice, shared.
    """

    model: str
    tensor: str
    given: tuple[Settings, ...]


@dataclass(frozen=True)
class Flow:
    """Where one output tensor comes from.

    Args:
        tensor: name in the output; filters of shared parameters test this name.
        depth: where gradients are read: i/(L-1) in layer i of the L layers of its slice, 1 in a
            lone layer, 0 outside the layers.
        feeds: one for each model, in the recipe's order.
        given: the settings of shared parameters, slice before recipe.
    """

    tensor: str
    depth: float
    feeds: tuple[Feed, ...]
    given: tuple[Settings, ...]

    def shared(self, parameter: str) -> Scalar | None:
        """The value of a parameter that all models share; None if the recipe gives none."""
        return first_value(parameter, self.given, self.tensor, self.depth)

    def own(self, parameter: str, model: str) -> Scalar | None:
        """The value of a parameter that every model has of its own; None if the recipe gives none.

        A model that is not among the feeds has what the slice and the recipe say.
        """
        for feed in self.feeds:
            if feed.model == model:
                return first_value(parameter, feed.given, feed.tensor, self.depth)
        return first_value(parameter, self.given, self.source(model), self.depth)

    def source(self, model: str) -> str:
        """The name of a model's tensor that belongs here, of a model that feeds nothing too.

        Such a model (the base of AIM and of task vectors, in a slice that does not list it) is
        read where the first source is read: all are fine-tuned from one base, layer by layer.
        """
        for feed in self.feeds:
            if feed.model == model:
                return feed.tensor
        return self.feeds[0].tensor


@dataclass(frozen=True)
class _Part:
    """A slice with its models resolved: first layers, settings, and where it starts."""

    models: tuple[str, ...]
    starts: tuple[int, ...]
    n_layers: int
    own: tuple[tuple[Settings, ...], ...]
    shared: tuple[Settings, ...]


@dataclass(frozen=True)
class DataFlow:
    """The output's tensors and where each comes from; made once a recipe, cheap to ask.

    Args:
        anatomy: of the output: tensor names, number of layers.
        layers: for every output layer, the layer of the base that it corresponds to (of the first
            source, where the base is not listed).
    """

    anatomy: Anatomy
    layers: tuple[int, ...]
    _parts: tuple[_Part, ...]
    _cells: tuple[tuple[int, int], ...]  # output layer -> (part, layer within it)

    @classmethod
    def of(cls, recipe: Recipe, anatomy: Anatomy, keys: Mapping[str, str], base: str) -> "DataFlow":
        """Resolve a recipe's models and slices.

        Args:
            recipe: with `models` (every output tensor comes from the tensors of its name) or
                `slices`.
            anatomy: of the base, and of every other model.
            keys: every name that a recipe may use -> key of the model.
            base: key of the base.

        Raises:
            SpaceError: an unknown model, a layer range beyond the model's layers, one model twice
                in a slice, layers that differ in their tensors.
        """
        shared = (recipe.parameters,)
        n = anatomy.n_layers
        if not recipe.slices:
            models = tuple(_key(s.model, keys) for s in recipe.models)
            own: tuple[tuple[Settings, ...], ...] = tuple(
                (s.parameters, *shared) for s in recipe.models
            )
            part = _Part(models, (0,) * len(models), n, own, shared)
            return cls(anatomy, tuple(range(n)), (part,), tuple((0, i) for i in range(n)))
        parts = []
        for i, piece in enumerate(recipe.slices):
            where = f"slices[{i}]"
            both = (piece.parameters, *shared)
            models = tuple(_key(s.model, keys) for s in piece.sources)
            for s, model in zip(piece.sources, models, strict=True):
                if s.layer_range[1] > n:
                    raise SpaceError(
                        f"{where}: layer_range {list(s.layer_range)} of '{s.model}' goes beyond "
                        f"its {n} layers"
                    )
                if models.count(model) > 1:
                    raise SpaceError(f"{where}: '{s.model}' is listed twice, under different names")
            starts = tuple(s.layer_range[0] for s in piece.sources)
            own = tuple((s.parameters, *both) for s in piece.sources)
            parts.append(_Part(models, starts, piece.n_layers, own, both))
        cells = tuple((p, i) for p, part in enumerate(parts) for i in range(part.n_layers))
        layers = tuple(_reference(parts[p], base) + i for p, i in cells)
        for p, i in cells:
            _same_build(anatomy, [start + i for start in parts[p].starts], f"slices[{p}]")
        return cls(_stacked(anatomy, layers), layers, tuple(parts), cells)

    def flow(self, tensor: str) -> Flow:
        """Where one tensor of `anatomy.tensors` comes from."""
        layer = self.anatomy.layer(tensor)
        if layer is None:
            part = self._parts[0 if is_front(tensor) else -1]
            names, depth = [tensor] * len(part.models), 0.0
        else:
            index, i = self._cells[layer]
            part = self._parts[index]
            names = [
                tensor if start + i == layer else moved(tensor, start + i) for start in part.starts
            ]
            depth = i / (part.n_layers - 1) if part.n_layers > 1 else 1.0
        feeds = tuple(map(Feed, part.models, names, part.own))
        return Flow(tensor, depth, feeds, part.shared)


def is_front(tensor: str) -> bool:
    """Whether a tensor outside the layers is read before the first of them (an embedding)."""
    return bool(_FRONT.search(tensor)) and not _NOT_FRONT.search(tensor)


def restacked(config: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, Any]:
    """A model config for other layers: `layers[i]` is the old layer that is now layer i.

    Sets the number of layers, and lets everything that is said of single layers (such as
    `layer_types`) follow them. A pattern that a config only implies does not follow: give the
    config as transformers completes it (`AutoConfig...to_dict()`).
    """
    new = dict(config)
    counts = [key for key in _LAYER_COUNTS if isinstance(config.get(key), int)]
    n = config[counts[0]] if counts else None
    for key, value in config.items():
        if key == "text_config" and isinstance(value, Mapping):
            new[key] = restacked(value, layers)
        elif key in counts:
            new[key] = len(layers)
        elif isinstance(value, list) and _LAYER_NUMBERS.search(key):
            new[key] = [i for i, old in enumerate(layers) if old in value]
        elif isinstance(value, list) and len(value) == n and not _NO_LAYERS.search(key):
            new[key] = [value[old] for old in layers]
    return new


def _key(name: str, keys: Mapping[str, str]) -> str:
    if name not in keys:
        raise SpaceError(unknown("model", name, keys))
    return keys[name]


def _reference(part: _Part, base: str) -> int:
    """The first layer of the base in a slice; of the first source, where it is not listed."""
    return part.starts[part.models.index(base) if base in part.models else 0]


@lru_cache(maxsize=8)
def _suffixes(anatomy: Anatomy) -> tuple[frozenset[str], ...]:
    """What the tensors of every layer are called after the layer's number."""
    found: list[set[str]] = [set() for _ in range(anatomy.n_layers)]
    prefixes = set()
    for tensor in anatomy.tensors:
        layer = anatomy.layer(tensor)
        if layer is not None:
            prefix, suffix = _split(tensor)
            prefixes.add(prefix)
            found[layer].add(suffix)
    if len(prefixes) > 1:
        raise SpaceError(
            f"slices: this model has layers under {', '.join(sorted(prefixes))}; only models with "
            "one stack of layers can be sliced"
        )
    return tuple(frozenset(s) for s in found)


def _same_build(anatomy: Anatomy, layers: list[int], where: str) -> None:
    suffixes = _suffixes(anatomy)
    for layer in layers[1:]:
        odd = sorted(suffixes[layer] ^ suffixes[layers[0]])
        if odd:
            raise SpaceError(
                f"{where}: layers {layers[0]} and {layer} are built differently: only one of them "
                f"has '{odd[0]}'"
            )


def _stacked(anatomy: Anatomy, layers: tuple[int, ...]) -> Anatomy:
    """The anatomy of the given layers, in this order, between what lies around the layers."""
    inside: dict[int, list[str]] = {}
    around: tuple[list[str], list[str]] = ([], [])
    for tensor in anatomy.tensors:
        layer = anatomy.layer(tensor)
        if layer is None:
            around[bool(inside)].append(tensor)
        else:
            inside.setdefault(layer, []).append(tensor)
    middle = [moved(t, new) for new, old in enumerate(layers) for t in inside[old]]
    output = Anatomy((*around[0], *middle, *around[1]), len(layers))
    for tensor in (*around[0], *around[1]):
        if output.layer(tensor) is not None:
            raise SpaceError(
                f"slices: '{tensor}' belongs to no layer of the model and would be taken for one "
                f"of the {len(layers)} layers of the output"
            )
    return output


def _split(tensor: str) -> tuple[str, str]:
    """What stands before and after the first number in a tensor's path."""
    parts = tensor.split(".")
    at = next(i for i, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[:at]), ".".join(parts[at + 1 :])


def moved(tensor: str, layer: int) -> str:
    """The name of the same tensor in another layer."""
    prefix, suffix = _split(tensor)
    return ".".join(part for part in (prefix, str(layer), suffix) if part)
