"""The safetensors writer: what the library reads back is what was written, to the bit."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.export.shards import NAMES, Slot, check_space, write_shards

names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(
    "__metadata__".__ne__
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Any bytes; booleans are 0 or 1."""
    n = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.arange(n, dtype=torch.uint8).mul_(37).add_(11)
    return (
        raw.bitwise_and_(1).view(dtype).reshape(shape)
        if dtype == torch.bool
        else raw.view(dtype).reshape(shape)
    )


def write(folder: Path, tensors: dict[str, Tensor]) -> list[str]:
    """The names in the order in which they were asked for."""
    asked: list[str] = []

    def stream(keys: Sequence[str]) -> Iterator[Tensor]:
        for key in keys:
            asked.append(key)
            yield tensors[key]

    slots = {k: Slot(tuple(t.shape), t.dtype) for k, t in tensors.items()}
    write_shards(folder, slots, stream)
    return asked


def same(a: Tensor, b: Tensor) -> bool:
    flat = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.tuples(shapes, st.sampled_from(list(NAMES))), min_size=1))
def test_the_library_reads_what_was_written(
    tmp_path: Path, kinds: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    tensors = {k: random(*kind) for k, kind in kinds.items()}
    assert sorted(write(tmp_path, tensors)) == sorted(tensors)
    read = load_file(tmp_path / "model.safetensors")
    assert set(read) == set(tensors)
    assert all(same(read[k], t) for k, t in tensors.items())
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    raw = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    for key, tensor in tensors.items():  # aligned, so that readers need not copy
        assert (8 + length + header[key]["data_offsets"][0]) % tensor.dtype.itemsize == 0


def test_a_transposed_tensor_is_written_row_by_row(tmp_path: Path) -> None:
    tensor = torch.arange(6).reshape(2, 3).T
    write(tmp_path, {"x": tensor})
    assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], tensor)


def test_shards_hold_at_most_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoaim.export.shards.SHARD_BYTES", 100)
    tensors = {f"t{i}": torch.full((size,), i) for i, size in enumerate([3, 12, 5, 5, 40, 1])}
    order = write(tmp_path, tensors)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    where = index["weight_map"]
    assert list(where) == order == list(tensors)
    files = list(dict.fromkeys(where.values()))
    assert files == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    for file in files:
        read = load_file(tmp_path / file)
        assert sorted(read) == sorted(k for k in where if where[k] == file)
        assert len(read) == 1 or sum(t.nbytes for t in read.values()) <= 100
        assert all(torch.equal(read[k], tensors[k]) for k in read)


def test_what_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'x': torch\.complex128 cannot be stored"):
        write(tmp_path, {"x": torch.zeros(2, dtype=torch.complex128)})
    with pytest.raises(ValueError, match=r"'x': .*due"):
        write_shards(tmp_path, {"x": Slot((2,), torch.float32)}, lambda _: iter([torch.zeros(3)]))


def test_a_disk_without_room_is_noticed_before(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "a" / "b", free // 2)
    with pytest.raises(ConfigError, match=r"b': .* are needed, .* are free on its disk; make room"):
        check_space(tmp_path / "a" / "b", 2 * free)
