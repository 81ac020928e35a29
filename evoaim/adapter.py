"""What a LoRA adapter changes in a base: its tensors matched to the base's, by name and shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from evoaim.adapter_config import LoraSettings
from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.model_folder import MERGE_FIRST

_FLOATS = ("F64", "F32", "F16", "BF16")
_MAGNITUDE, _BIAS = "magnitude_vector", "B.bias"
# A and B of a module, and whether B @ A is the transpose of the module's weight.
_FACTORS = {("A.weight", "B.weight"): False, ("embedding_A", "embedding_B"): True}


@dataclass(frozen=True)
class Factors:
    """scale * B @ A, by the adapter's names."""

    a: str  # (rank, in)
    b: str  # (out, rank)
    scale: float
    flipped: bool  # the base stores (in, out): embeddings, Conv1D
    magnitude: str | None  # DoRA's norms of the outputs: (out,)

    @property
    def names(self) -> list[str]:
        """Of the adapter's tensors."""
        return [self.a, self.b, *([self.magnitude] if self.magnitude else [])]


@dataclass(frozen=True)
class Shift:
    """scale * bias, by the adapter's name."""

    bias: str
    scale: float

    @property
    def names(self) -> list[str]:
        """Of the adapter's tensors."""
        return [self.bias]


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor of the base: a whole one in its place, a term added, or both."""

    whole: str | None = None  # by the adapter's name
    term: Factors | Shift | None = None

    @property
    def names(self) -> list[str]:
        """Of the adapter's tensors."""
        return [*([self.whole] if self.whole else []), *(self.term.names if self.term else [])]


@dataclass(frozen=True)
class Matcher:
    """Fits an adapter to a base."""

    who: str  # begins every message
    base: Checkpoint
    blueprint: Blueprint  # of the base
    settings: LoraSettings
    handle: Any  # the adapter's open safetensors file

    def changes(self) -> Mapping[str, Change]:
        """The base's key -> what becomes of its tensor; keys that stay as they are have no entry.

        Raises:
            ConfigError: a tensor of the adapter is not understood or does not fit the base.
        """
        found: dict[str, Change] = {}
        heads: dict[str, Change] = {}  # what is said of tied weights under their second name
        for name, change in self._named():
            key = self._key(name)
            into = heads if name in self.blueprint.tied else found
            into[key] = self._joined(into.get(key, Change()), self._fitted(change, key), name)
        for second, parameter in self.blueprint.tied.items():
            key = self.blueprint.keys[parameter][0]
            change = found.get(key, Change())
            self._check_tied(key, change, heads.get(key, Change()))
            if second in self.base.shapes:
                found[second] = change
        return {key: change for key, change in found.items() if change != Change()}

    def _named(self) -> Iterator[tuple[str, Change]]:
        """Name of a parameter in the live model, and one thing that the adapter says of it."""
        modules: dict[str, dict[str, str]] = {}
        for stored in sorted(self.handle.keys()):
            if (dtype := self.handle.get_slice(stored).get_dtype()) not in _FLOATS:
                raise ConfigError(
                    f"{self.who}: '{stored}' is stored as {dtype}; adapters in floating point are "
                    "supported, parts of quantized layers are not"
                )
            name = stored.removeprefix("base_model.model.")
            module, _, part = name.rpartition(".lora_")
            if module:
                twin = modules.setdefault(module, {}).setdefault(part, stored)
                if twin != stored:
                    raise ConfigError(f"{self.who}: '{stored}' and '{twin}' are the same tensor")
            else:
                name = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
                yield name, Change(whole=stored)
        for module, parts in modules.items():
            yield f"{module}.weight", Change(term=self._factors(module, parts))
            if _BIAS in parts:
                shift = Shift(parts[_BIAS], self.settings.scale_of(module))
                yield f"{module}.bias", Change(term=shift)

    def _factors(self, module: str, parts: Mapping[str, str]) -> Factors:
        kind = next((k for k in _FACTORS if set(k) <= set(parts)), ())
        other = [s for part, s in parts.items() if part not in (*kind, _MAGNITUDE, _BIAS)]
        if not kind or other:
            raise ConfigError(
                f"{self.who}: '{[*other, *parts.values()][0]}' is not understood, or lacks its "
                f"counterpart; the adapter is damaged or of a kind not supported; {MERGE_FIRST}"
            )
        a, b = (parts[part] for part in kind)
        rank, shape = self.settings.rank_of(module), self._shape(a)
        if shape[:1] != (rank,):
            raise ConfigError(
                f"{self.who}: adapter_config.json gives '{module}' rank {rank}, but '{a}' has "
                f"shape {list(shape)}; the files do not belong together, or were saved in parts "
                "(DeepSpeed, FSDP) that must be gathered first"
            )
        magnitude = parts.get(_MAGNITUDE)
        if (magnitude is not None) != self.settings.dora:
            raise ConfigError(
                f"{self.who}: use_dora is {str(self.settings.dora).lower()}, but '{module}' has "
                f"{'a' if magnitude else 'no'} lora_magnitude_vector"
            )
        return Factors(a, b, self.settings.scale_of(module), _FACTORS[kind], magnitude)

    def _key(self, name: str) -> str:
        """The base's key of a parameter, named as in the live model or as in the checkpoint."""
        owner = self.blueprint.tied.get(name, name)
        keys = self.blueprint.keys.get(owner, (owner,) if owner in self.blueprint.places else ())
        if len(keys) == 1:
            return keys[0]
        if keys:
            raise ConfigError(
                f"{self.who}: changes '{name}', which the base stores in parts ('{keys[0]}' is "
                f"one); {MERGE_FIRST}"
            )
        what = "adds a bias" if name.endswith(".bias") else "changes"
        raise ConfigError(
            f"{self.who}: {what} '{name}', which the base '{self.base.name}' does not have; it is "
            "a LoRA for another base"
        )

    def _fitted(self, change: Change, key: str) -> Change:
        """The change, laid out as the base's tensor; none if it is the base's own tensor.

        Raises:
            ConfigError: the shapes do not fit.
        """
        if change.whole is not None:
            self._check(self._shape(change.whole), key, change.whole)
            return Change() if self._is_copy(change.whole, key) else change
        f = change.term
        if isinstance(f, Shift):
            self._check(self._shape(f.bias), key, f.bias)
        if not isinstance(f, Factors):
            return change
        a, b = self._shape(f.a), self._shape(f.b)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise ConfigError(
                f"{self.who}: '{f.a}' {list(a)} and '{f.b}' {list(b)} are not two matrices of one "
                f"rank; convolutions are not supported; {MERGE_FIRST}"
            )
        if f.magnitude is not None and self._shape(f.magnitude) != b[:1]:
            raise ConfigError(f"{self.who}: '{f.magnitude}' does not have shape {list(b[:1])}")
        flipped = f.flipped or self.blueprint.axes[key] == -2
        self._check((a[1], b[0]) if flipped else (b[0], a[1]), key, f.b)
        return Change(term=replace(f, flipped=flipped))

    def _check(self, shape: tuple[int, ...], key: str, stored: str) -> None:
        wanted = self.base.shapes[key]
        if shape == wanted:
            return
        if wanted[:1] in self._rows and shape[1:] == wanted[1:]:
            raise ConfigError(
                f"{self.who}: '{key}' has {shape[0]} rows in the adapter and {wanted[0]} in the "
                f"base '{self.base.name}': tokens were added or removed before training; merge "
                "the adapter into the base that it was trained on (peft: merge_and_unload, "
                "save_pretrained) and give the full model"
            )
        raise ConfigError(
            f"{self.who}: '{stored}' is for a tensor of shape {list(shape)}, '{key}' of the base "
            f"'{self.base.name}' has {list(wanted)}; it is a LoRA for another base"
        )

    @cached_property
    def _rows(self) -> set[tuple[int, ...]]:
        """Rows of the base's embeddings; an output head has as many."""
        kinds = self.blueprint.kinds
        return {self.base.shapes[k][:1] for k in kinds if kinds[k] in ("embedding", "tied")}

    def _is_copy(self, stored: str, key: str) -> bool:
        """Whether peft saved the base's own tensor too, as it does for embeddings."""
        if ".base_layer." not in stored and self.base.shapes[key][:1] not in self._rows:
            return False
        copy = self.handle.get_tensor(stored)
        return torch.equal(copy, self.base.tensor(key).to(copy.dtype))

    def _joined(self, a: Change, b: Change, name: str) -> Change:
        if (a.whole and b.whole) or (a.term and b.term):
            raise ConfigError(f"{self.who}: '{name}' is changed twice, under two names")
        return Change(a.whole or b.whole, a.term or b.term)

    def _check_tied(self, key: str, embedding: Change, head: Change) -> None:
        """Tied weights can only hold an adapter that changes embedding and head alike."""
        load, e, h = self.handle.get_tensor, embedding.term, head.term
        same = (embedding.whole is None) == (head.whole is None) and type(e) is type(h)
        if embedding.whole and head.whole:
            same = same and torch.equal(load(embedding.whole), load(head.whole))
        if isinstance(e, Factors) and isinstance(
            h, Factors
        ):  # peft's ensure_weight_tying: the head's factors are the embedding's, swapped
            same = same and (e.scale, e.magnitude, h.magnitude) == (h.scale, None, None)
            same = same and torch.equal(load(e.a).T, load(h.b))
            same = same and torch.equal(load(e.b).T, load(h.a))
        if not same:
            raise ConfigError(
                f"{self.who}: changes embedding and output head apart, but the base "
                f"'{self.base.name}' ties both to '{key}'; train it with ensure_weight_tying, or "
                "give an untied base (tie_word_embeddings: false)"
            )

    def _shape(self, stored: str) -> tuple[int, ...]:
        return tuple(self.handle.get_slice(stored).get_shape())
