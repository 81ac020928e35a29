"""A model on disk: folder or hub id, safetensors only, memory-mapped, never outside its folder."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from evoaim.errors import ConfigError

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
    "*.md",
]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
            ConfigError: missing, not a model, pickle or quantized weights, a damaged file, an index
                that points outside its folder.
        """
        folder = _locate(name)
        config = _json(folder / "config.json", name)
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
            with _open(file, name) as handle:
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

    def file(self, name: str) -> Path | None:
        """A file beside the weights, None if there is none.

        Raises:
            ConfigError: it is a link out of the folder.
        """
        return _inside(self.folder, name, self.name) if (self.folder / name).is_file() else None

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
        digest = sha256()
        for file in [self.folder / "config.json", *sorted(set(self.shards.values()))]:
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as handle:
                while block := handle.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()

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
        if not (self.folder / "tokenizer.json").is_file():
            return None
        data = _json(self.folder / "tokenizer.json", self.name)
        vocabulary = (data.get("model") or {}).get("vocab")
        if isinstance(vocabulary, list):  # unigram: [token, score] pairs, the id is the position
            tokens = {str(entry[0]): i for i, entry in enumerate(vocabulary)}
        else:
            tokens = dict(vocabulary or {})
        return tokens | {t["content"]: t["id"] for t in data.get("added_tokens") or []}


def _locate(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    hint = "; build the demo zoo with `evoaim zoo build`" if name.startswith("zoo/") else ""
    if folder.exists():
        raise ConfigError(f"model '{name}': is a file; give the folder that holds config.json")
    if not _HUB_ID.match(name) or folder.parent.is_dir() or hint:
        raise ConfigError(f"model '{name}': no such folder{hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model '{name}': no such folder, and the hub gave no model of that name ({reason})"
        ) from None


@contextmanager
def _open(file: Path, name: str) -> Iterator[Any]:
    """An open safetensors file, whose header has been checked against its length."""
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"model '{name}': {file.name} is damaged or truncated ({error}); download it again"
        ) from None


def _shards(folder: Path, name: str) -> dict[str, Path]:
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"model '{name}': is a LoRA adapter (adapter_config.json); merge it into its base "
            "first (peft: merge_and_unload, save_pretrained)"
        )
    single = folder / "model.safetensors"  # first, as in transformers
    if single.exists():
        file = _inside(folder, single.name, name)
        with _open(file, name) as handle:
            return dict.fromkeys(handle.keys(), file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _json(index, name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"model '{name}': {index.name} has no weight_map")
        files = {str(f): _inside(folder, str(f), name) for f in set(weight_map.values())}
        return {str(k): files[str(f)] for k, f in weight_map.items()}
    if any(next(folder.glob(p), None) for p in _PICKLES):
        raise ConfigError(
            f"model '{name}': has only pickle weights, which can run code when loaded and are "
            "refused; convert them to safetensors on a machine you can lose "
            "(transformers: model.save_pretrained(folder))"
        )
    raise ConfigError(f"model '{name}': {folder} holds no model.safetensors and no index of shards")


def _inside(folder: Path, file: str, name: str) -> Path:
    """The file's path, if it is a plain file of the folder (or of the hub cache behind it)."""
    if Path(file).name != file or file in ("", ".", "..") or "\0" in file:
        raise ConfigError(f"model '{name}': the index points outside the folder: '{file}'; refused")
    path = folder / file
    target, home = path.resolve(), folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":  # the hub cache links snapshots/<commit>/* to blobs/*
        homes.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(h) for h in homes):
        raise ConfigError(f"model '{name}': '{file}' links outside the folder; refused")
    if not target.is_file():
        raise ConfigError(f"model '{name}': shard '{file}' is missing; download the model again")
    return path


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"model '{name}': {path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"model '{name}': {path.name} cannot be read ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"model '{name}': {path.name} is not a JSON object")
    return data
