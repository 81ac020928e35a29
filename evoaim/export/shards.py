"""Safetensors files written tensor by tensor: the header first, then each tensor's bytes.

Format: an unsigned 64-bit length, a JSON header (name -> dtype, shape, data_offsets) padded with
spaces to a multiple of 8 bytes, then the tensors without gaps. Little-endian, row-major.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.placement import size_text

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Slot:
    """What a tensor will be, known before there is one."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path,
    slots: Mapping[str, Slot],
    tensors: Callable[[Sequence[str]], Iterator[Tensor]],
) -> None:
    """Write tensors to files of at most SHARD_BYTES, with an index if there are several.

    A file is never held in memory, only what `tensors` holds.

    Args:
        folder: where there is room (see `check_space`).
        slots: what is written, by name.
        tensors: names in the order of the files -> their tensors in that order, each of its slot's
            shape and dtype, on any device.

    Raises:
        ConfigError: a dtype that the format does not have.
        OSError: a file cannot be written. Whatever `tensors` raises.
    """
    for key, slot in slots.items():
        if slot.dtype not in NAMES:
            raise ConfigError(f"tensor '{key}': {slot.dtype} cannot be stored in safetensors files")
    # wide elements first, as the safetensors library does: every tensor is aligned to its elements
    keys = sorted(slots, key=lambda k: -slots[k].dtype.itemsize)
    shards = list(_sharded(keys, slots))
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else ["model.safetensors"]
    stream = tensors(keys)
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, {k: slots[k] for k in shard}, stream)
    if len(shards) > 1:
        total = sum(slot.n_bytes for slot in slots.values())
        where = {k: name for name, shard in zip(names, shards, strict=True) for k in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def check_space(out: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        ConfigError: the file system of `out` has less than `needed` bytes free.
    """
    home = next(p for p in (out, *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(home).free
    if free < needed:
        raise ConfigError(
            f"'{out}': {size_text(needed)} are needed, {size_text(free)} are free on its disk; "
            "make room, or write to another disk"
        )


def _write_file(path: Path, slots: Mapping[str, Slot], tensors: Iterator[Tensor]) -> None:
    with path.open("wb") as file:
        file.write(_header(slots))
        for key, slot in slots.items():
            tensor = next(tensors)
            if (tuple(tensor.shape), tensor.dtype) != (slot.shape, slot.dtype):
                raise ValueError(f"'{key}': {tensor.shape} {tensor.dtype} where {slot} was due")
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _header(slots: Mapping[str, Slot]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key, slot in slots.items():
        end = start + slot.n_bytes
        entries[key] = {
            "dtype": NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _sharded(keys: Sequence[str], slots: Mapping[str, Slot]) -> Iterator[list[str]]:
    shard: list[str] = []
    used = 0
    for key in keys:
        if shard and used + slots[key].n_bytes > SHARD_BYTES:
            yield shard
            shard, used = [], 0
        shard.append(key)
        used += slots[key].n_bytes
    yield shard
