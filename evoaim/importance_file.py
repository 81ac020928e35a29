"""Importance as a safetensors file: one tensor for all weights that read the same input."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.importance import Importance

# Version 1 held only mean |x|, by the names of the live model's parameters.
FIRST, FORMAT = "evoaim-importance-1", "evoaim-importance-2"


def write(importance: Importance, path: Path) -> None:
    """Write the file, whole or not at all.

    A tensor is (statistics, in), or (statistics, experts, in).

    Raises:
        ConfigError: it cannot be written there.
    """
    rows = [importance.channels, *importance.variants.values()]
    tensors: dict[str, Tensor] = {}
    owners: dict[bytes, str] = {}
    shared: dict[str, str] = {}
    for key in importance.channels:
        tensor = torch.stack([vectors[key].cpu() for vectors in rows])
        content = sha256(tensor.numpy().tobytes()).digest() + str(tensor.shape).encode()
        owner = owners.setdefault(content, key)
        if owner == key:
            tensors[key] = tensor
        else:
            shared[key] = owner
    metadata = {"format": FORMAT, "statistics": ",".join(importance.statistics)}
    metadata |= {"shared": json.dumps(shared), **importance.origin}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"importance '{path}': cannot be written ({error})") from None


def read(path: Path) -> Importance:
    """Read a file of this or the first version.

    Raises:
        ConfigError: missing, damaged, or not an importance file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            origin = dict(file.metadata() or {})
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ConfigError(
            f"importance '{path}': no such file; `evoaim calibrate` writes one"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"importance '{path}': cannot be read ({error})") from None
    version = origin.pop("format", None)
    if version not in (FIRST, FORMAT):
        raise ConfigError(f"importance '{path}': was not written by `evoaim calibrate`")
    for name, tensor in tensors.items():
        if not ((tensor >= 0) & (tensor <= 1)).all():
            raise ConfigError(f"importance '{path}': '{name}' has values outside [0, 1]")
    if version == FIRST:
        return Importance(tensors, origin)
    names = origin.pop("statistics").split(",")
    owners = {k: k for k in tensors} | dict[str, str](json.loads(origin.pop("shared")))
    by_name = {name: _row(tensors, owners, i) for i, name in enumerate(names)}
    return Importance(by_name.pop("mean_abs"), origin, by_name)


def _row(tensors: Mapping[str, Tensor], owners: Mapping[str, str], i: int) -> dict[str, Tensor]:
    """One statistic; weights that share an input share the vector."""
    vectors = {key: tensor[i] for key, tensor in tensors.items()}
    return {key: vectors[owner] for key, owner in owners.items()}
