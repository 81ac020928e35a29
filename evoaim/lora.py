"""An expert given as a LoRA adapter (PEFT folder): kept low-rank, computed tensor by tensor."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from evoaim.adapter import Change, Factors, Matcher, Shift
from evoaim.adapter_config import LoraSettings
from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint, Weights
from evoaim.errors import ConfigError
from evoaim.model_folder import (
    ADAPTER_CONFIG,
    PICKLES,
    hash_files,
    inside,
    locate,
    open_safetensors,
    read_json,
    read_vocabulary,
)

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraExpert:
    """The base with an adapter on top (LoRA, arXiv:2106.09685; DoRA, arXiv:2402.09353).

    A tensor of the base is in one of three states: untouched (`touches` is False: the base's);
    replaced by a whole one of the adapter (`delta` is None: read `tensor`); or computed (`delta`
    has the difference, float32). `tensor` is right in all three. Computed tensors stay float32:
    rounding them to a base's bfloat16 would lose most of a small difference.
    """

    name: str  # as the user gave it
    folder: Path
    base: Checkpoint
    changes: Mapping[str, Change]  # of touched keys
    notes: tuple[str, ...]  # what a user should know, though nothing is wrong

    def touches(self, key: str) -> bool:
        """Whether the adapter changes this tensor of the base."""
        return key in self.changes

    def factors(self, key: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Left (rows, rank) and right (rank, columns), float32: their product is `delta`.

        Scale and layout are in them; None where the difference is not low-rank (untouched or
        whole tensors, biases, DoRA).

        Raises:
            ConfigError: a factor is not finite.
        """
        change = self.changes.get(key, Change())
        if not isinstance(change.term, Factors) or change.term.magnitude or change.whole:
            return None
        return self._factors(change.term)

    def delta(self, key: str) -> torch.Tensor | None:
        """Expert minus base, float32, new memory; None if untouched or stored whole.

        Raises:
            ConfigError: a tensor of the adapter is not finite.
        """
        change = self.changes.get(key, Change())
        if change.term is None or change.whole is not None:
            return None
        return self._added(change.term, self.base.tensor(key))

    def tensor(self, key: str) -> torch.Tensor:
        """The whole weights: stored ones in their dtype, computed ones in float32.

        Raises:
            ConfigError: a tensor of the adapter is not finite.
        """
        change = self.changes.get(key, Change())
        origin = self.base.tensor(key) if change.whole is None else self._stored(change.whole)
        return origin if change.term is None else self._added(change.term, origin).add_(origin)

    def release(self) -> None:
        """See `Weights`."""
        self.__dict__.pop("_handle", None)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The base's."""
        return self.base.shapes

    @property
    def config(self) -> Mapping[str, Any]:
        """The base's."""
        return self.base.config

    @property
    def vocabulary(self) -> Mapping[str, int] | None:
        """The base's: an adapter with rows of its own is refused."""
        return self.base.vocabulary

    @cached_property
    def dtype(self) -> str:
        """Name of the dtype that most of the adapter's tensors are stored in."""
        found = Counter(str(self._stored(k).dtype).removeprefix("torch.") for k in self._names)
        return found.most_common(1)[0][0]

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of the adapter's tensors as stored, without the base."""
        return sum(self._stored(k).nbytes for k in self._names)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the adapter's settings and tensors and the base's content hash."""
        files = [self.folder / ADAPTER_CONFIG, self.folder / ADAPTER]
        return hash_files(files, start=self.base.content_hash)

    @property
    def _names(self) -> set[str]:
        """Of the adapter's tensors in use: peft saves the base's embeddings too."""
        return {name for change in self.changes.values() for name in change.names}

    @cached_property
    def _handle(self) -> Any:
        return safe_open(self.folder / ADAPTER, framework="pt")

    def _stored(self, name: str) -> torch.Tensor:
        """A tensor of the adapter, a view of the memory-mapped file."""
        tensor: torch.Tensor = self._handle.get_tensor(name)
        return tensor

    def _finite(self, name: str) -> torch.Tensor:
        """A small tensor of the adapter in float32, checked."""
        tensor = self._stored(name).float()
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                f"model '{self.name}': tensor '{name}' in {ADAPTER} holds NaN or infinity"
            )
        return tensor

    def _factors(self, f: Factors) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self._finite(f.a), self._finite(f.b) * f.scale
        return (a.T, b.T) if f.flipped else (b, a)

    def _added(self, term: Factors | Shift, origin: torch.Tensor) -> torch.Tensor:
        """What is added to the origin: the base's tensor, or the whole one in its place."""
        if isinstance(term, Shift):
            return self._finite(term.bias) * term.scale
        left, right = self._factors(term)
        added = left @ right
        if term.magnitude is None:
            return added
        # DoRA, equation 5: every output's weights are scaled to the norm that was learnt for it
        whole, axis = added.add_(origin), 0 if term.flipped else 1
        norm = torch.linalg.vector_norm(whole, dim=axis, keepdim=True)
        learnt = self._finite(term.magnitude).unsqueeze(axis)
        return whole.mul_(learnt / norm).sub_(origin)


def open_expert(name: str, base: Checkpoint, blueprint: Blueprint | None = None) -> Weights:
    """Open an expert of the base: a full checkpoint or a LoRA adapter; a folder or a hub id.

    A full checkpoint is not compared with the base here (see `check_compatible`); an adapter is,
    as its tensors are found by the base's. Reads headers, and embeddings that an adapter holds.

    Args:
        name: folder or hub id.
        base: what the expert was trained from.
        blueprint: of the base, if it is at hand.

    Raises:
        ConfigError: missing, damaged, hostile, of a kind that is not supported, or an adapter for
            another base.
    """
    folder = locate(name)
    if not (folder / ADAPTER_CONFIG).is_file():
        return Checkpoint.open(name)
    who = f"model '{name}'"
    config = read_json(inside(folder, ADAPTER_CONFIG, name), name)
    settings = LoraSettings.of(config, who)
    with open_safetensors(_file(folder, name), name) as handle:
        changes = Matcher(who, base, blueprint or Blueprint.of(base), settings, handle).changes()
    if not changes:
        raise ConfigError(f"{who}: the adapter changes nothing in the base '{base.name}'")
    return LoraExpert(
        name, folder, base, changes, (*_origin(config, base), *_tokens(folder, name, base))
    )


def _file(folder: Path, name: str) -> Path:
    """The adapter's weights.

    Raises:
        ConfigError: there are none, or only pickled ones, or a full model beside them.
    """
    if any(next(folder.glob(p), None) for p in ("model*.safetensors", "model*.safetensors.index*")):
        raise ConfigError(
            f"model '{name}': holds both a full model and a LoRA adapter; remove {ADAPTER_CONFIG} "
            "to use the model, or the model to use the adapter"
        )
    if (folder / ADAPTER).is_file():
        return inside(folder, ADAPTER, name)
    if any(next(folder.glob(p), None) for p in PICKLES):
        raise ConfigError(
            f"model '{name}': its adapter is pickled, which can run code when loaded and is "
            "refused; convert it to safetensors on a machine you can lose (peft: "
            "PeftModel.from_pretrained, save_pretrained)"
        )
    raise ConfigError(f"model '{name}': {folder} holds {ADAPTER_CONFIG}, but no {ADAPTER}")


def _origin(config: Mapping[str, Any], base: Checkpoint) -> list[str]:
    """Names of bases are often wrong or paths of another machine, so this is no error."""
    said = config.get("base_model_name_or_path")
    ours = [base.name, str(base.folder), str(base.config.get("_name_or_path", ""))]
    if not isinstance(said, str) or not said:
        return []
    if Path(said).name.lower() in {Path(o).name.lower() for o in ours}:
        return []
    return [f"adapter_config.json names the base '{said}'; it is used on '{base.name}'"]


def _tokens(folder: Path, name: str, base: Checkpoint) -> list[str]:
    """A tokenizer beside the adapter must agree with the base's, but may know more tokens.

    Raises:
        ConfigError: a token has another id.
    """
    ours, theirs = base.vocabulary, read_vocabulary(folder, name)
    if ours is None or theirs is None:
        return []
    for token, number in theirs.items():
        if ours.get(token, number) != number:
            raise ConfigError(
                f"model '{name}': token {token!r} has id {number} in the adapter's tokenizer.json "
                f"and {ours[token]} in the base '{base.name}'; it is a LoRA for another base"
            )
    new = [t for t in theirs if t not in ours]
    if not new:
        return []
    return [f"its tokenizer adds {len(new)} tokens, such as {new[0]!r}, that the base lacks"]
