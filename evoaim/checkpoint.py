"""A model on disk: folder or hub id, safetensors only, memory-mapped, never outside its folder."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from evoaim.errors import ConfigError
from evoaim.model_folder import (
    ADAPTER_CONFIG,
    MERGE_FIRST,
    PICKLES,
    hash_files,
    inside,
    locate,
    open_safetensors,
    read_json,
    read_vocabulary,
)


class Weights(Protocol):
    """A model's weights by checkpoint key, however they are stored: whole or low-rank.

    `tensor` is always the whole weights. `delta` and `touches` only tell where these can be had
    more cheaply, so that a reader who ignores both is slower, not wrong.
    """

    @property
    def name(self) -> str:
        """As the user gave it: a folder or a hub id."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json (of a LoRA: its base's)."""

    @property
    def vocabulary(self) -> Mapping[str, int] | None:
        """Token -> row of the embedding; None if that is not known."""

    @property
    def dtype(self) -> str:
        """Name of the dtype that most of the weights are stored in."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights as stored: what holding them all costs."""

    @property
    def content_hash(self) -> str:
        """SHA-256 of everything that decides the weights."""

    def tensor(self, key: str) -> torch.Tensor:
        """The whole weights, on the CPU: in the stored dtype, or float32 if they are computed."""

    def delta(self, key: str) -> torch.Tensor | None:
        """Whole weights minus the base's, float32, new memory; None: only `tensor` knows."""

    def touches(self, key: str) -> bool:
        """False: `tensor` is the base's very tensor, and need not be read or held."""

    def release(self) -> None:
        """Let mapped files go; they are mapped anew when needed, and tensors in use stay."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, each in one safetensors file of the folder."""

    name: str  # as the user gave it
    folder: Path
    shards: Mapping[str, Path]  # tensor name -> file
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any]

    @classmethod
    def open(cls, name: str) -> "Checkpoint":
        """Open a folder or hub id; reads headers only.

        Raises:
            ConfigError: missing, not a model, an adapter, pickle or quantized weights, a damaged
                file, an index that points outside its folder.
        """
        folder = locate(name)
        if (folder / ADAPTER_CONFIG).is_file():
            raise ConfigError(
                f"model '{name}': is a LoRA adapter ({ADAPTER_CONFIG}); it can be an expert, but "
                f"here a full model is needed: {MERGE_FIRST}"
            )
        config = read_json(folder / "config.json", name)
        if config.get("quantization_config"):
            raise ConfigError(
                f"model '{name}': is quantized; merging needs full-precision weights, "
                "give the unquantized checkpoint"
            )
        for key in ("attn_implementation", "_attn_implementation"):
            if "/" in str(config.get(key)):  # transformers would fetch a kernel and run it
                raise ConfigError(
                    f"model '{name}': config.json asks for code from '{config[key]}'; "
                    f"remove its {key}"
                )
        shards = _shards(folder, name)
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(set(shards.values())):
            with open_safetensors(file, name) as handle:
                shapes |= {
                    k: tuple(handle.get_slice(k).get_shape())
                    for k in handle.keys()  # noqa: SIM118
                    if shards.get(k) == file
                }
        missing = sorted(k for k in shards if k not in shapes)
        if missing:
            raise ConfigError(
                f"model '{name}': the index promises '{missing[0]}' in "
                f"{shards[missing[0]].name}, which does not hold it"
            )
        return cls(name, folder, shards, {k: shapes[k] for k in sorted(shapes)}, config)

    def tensor(self, key: str) -> torch.Tensor:
        """One tensor, a view of the memory-mapped file in the file's dtype, on the CPU."""
        file = self.shards[key]
        if file not in self._handles:
            self._handles[file] = safe_open(file, framework="pt")
        tensor: torch.Tensor = self._handles[file].get_tensor(key)
        return tensor

    def delta(self, key: str) -> None:
        """None: a full checkpoint stores whole weights (see `Weights`)."""

    def touches(self, key: str) -> bool:
        """True: every tensor is stored (see `Weights`)."""
        return key in self.shapes

    def release(self) -> None:
        """See `Weights`."""
        self._handles.clear()

    def file(self, name: str) -> Path | None:
        """A file beside the weights, None if there is none.

        Raises:
            ConfigError: it is a link out of the folder.
        """
        return inside(self.folder, name, self.name) if (self.folder / name).is_file() else None

    def tokenizer_hashes(self) -> dict[str, str]:
        """SHA-256 of the files that decide what a text becomes for the model."""
        names = (
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "chat_template.jinja",
        )
        files = {n: self.file(n) for n in names}
        return {n: sha256(f.read_bytes()).hexdigest() for n, f in files.items() if f is not None}

    @cached_property
    def _handles(self) -> dict[Path, Any]:
        return {}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over config and weights: what a run records, and what caches are keyed by."""
        return hash_files([self.folder / "config.json", *sorted(set(self.shards.values()))])

    @cached_property
    def dtype(self) -> str:
        """Name of the dtype that most tensors are stored in, such as "bfloat16"."""
        found = Counter(str(self.tensor(k).dtype).removeprefix("torch.") for k in self.shapes)
        return found.most_common(1)[0][0]

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(self.tensor(k).nbytes for k in self.shapes)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks, from the config."""
        text = self.config.get("text_config") or {}
        for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
            value = self.config.get(key, text.get(key))
            if isinstance(value, int):
                return value
        raise ConfigError(
            f"model '{self.name}': config.json does not say how many layers there are"
        )

    @property
    def tied(self) -> bool:
        """Whether the output head shares the embedding's storage."""
        stated = self.config.get("tie_word_embeddings")
        return bool(stated) if stated is not None else not any("lm_head" in k for k in self.shapes)

    @cached_property
    def vocabulary(self) -> Mapping[str, int] | None:
        """Token -> id of the fast tokenizer, added tokens included; None without tokenizer.json."""
        return read_vocabulary(self.folder, self.name)


def _shards(folder: Path, name: str) -> dict[str, Path]:
    single = folder / "model.safetensors"  # first, as in transformers
    if single.exists():
        file = inside(folder, single.name, name)
        with open_safetensors(file, name) as handle:
            return dict.fromkeys(handle.keys(), file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index, name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"model '{name}': {index.name} has no weight_map")
        files = {str(f): inside(folder, str(f), name) for f in set(weight_map.values())}
        return {str(k): files[str(f)] for k, f in weight_map.items()}
    if any(next(folder.glob(p), None) for p in PICKLES):
        raise ConfigError(
            f"model '{name}': has only pickle weights, which can run code when loaded and are "
            "refused; convert them to safetensors on a machine you can lose "
            "(transformers: model.save_pretrained(folder))"
        )
    raise ConfigError(f"model '{name}': {folder} holds no model.safetensors and no index of shards")
