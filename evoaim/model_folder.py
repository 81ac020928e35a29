"""A stranger's model folder: found or downloaded, plain JSON and safetensors, no escapes."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from evoaim.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
MERGE_FIRST = "merge it into its base first (peft: merge_and_unload, save_pretrained)"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Of a hub repository; adapters need the first two.
PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
    "*.md",
)
# Subfolders (training states, other formats) are never read; some repositories hold a second copy.
LEFT_OUT = ("*/*", "consolidated*")

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def locate(name: str) -> Path:
    """The folder of that name, or the local copy of the hub repository.

    Raises:
        ConfigError: there is neither.
    """
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
        found = snapshot_download(
            name, allow_patterns=list(PATTERNS), ignore_patterns=list(LEFT_OUT)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model '{name}': no such folder, and the hub gave no model of that name ({reason})"
        ) from None
    return Path(found)


@contextmanager
def open_safetensors(file: Path, name: str) -> Iterator[Any]:
    """An open safetensors file, whose header has been checked against its length.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"model '{name}': {file.name} is damaged or truncated ({error}); download it again"
        ) from None


def inside(folder: Path, file: str, name: str) -> Path:
    """The file's path, if it is a plain file of the folder (or of the hub cache behind it).

    Raises:
        ConfigError: it points or links outside, or is missing.
    """
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


def hash_files(files: Iterable[Path], start: str = "") -> str:
    """SHA-256 of a start and the names and contents of files."""
    digest = sha256(start.encode())
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: missing, unreadable, or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"model '{name}': {path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"model '{name}': {path.name} cannot be read ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"model '{name}': {path.name} is not a JSON object")
    return data


def read_vocabulary(folder: Path, name: str) -> dict[str, int] | None:
    """Token -> id of the fast tokenizer, added tokens included; None without tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        return None
    data = read_json(folder / "tokenizer.json", name)
    vocabulary = (data.get("model") or {}).get("vocab")
    if isinstance(vocabulary, list):  # unigram: [token, score] pairs, the id is the position
        tokens = {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    else:
        tokens = dict(vocabulary or {})
    return tokens | {t["content"]: t["id"] for t in data.get("added_tokens") or []}
