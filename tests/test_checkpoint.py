"""Checkpoints: which folders are accepted, and every damaged or hostile one that is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.compatibility import check_compatible
from evoaim.errors import ConfigError
from evoaim.live import load_live

Maker = Callable[..., Path]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture
def folder(family: dict[str, str], tmp_path: Path) -> Path:
    """A copy of expert a, to be damaged."""
    return Path(shutil.copytree(family["a"], tmp_path / "a"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def shard(folder: Path) -> dict[str, str]:
    """Split the weights over two files with an index; returns its weight map."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    weight_map = {k: f"part-{i % 2}.safetensors" for i, k in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        part = {k: tensors[k] for k, f in weight_map.items() if f == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_single_and_sharded_folders_hold_the_same(folder: Path) -> None:
    single = Checkpoint.open(str(folder))
    tensors = {k: single.tensor(k).clone() for k in single.shapes}
    assert {k: tuple(v.shape) for k, v in tensors.items()} == dict(single.shapes)
    assert (single.n_layers, single.tied, single.dtype) == (3, True, "float32")
    assert single.n_bytes == 4 * sum(v.numel() for v in tensors.values())
    assert single.vocabulary is not None
    assert (single.vocabulary["w0"], len(single.vocabulary)) == (3, 67)
    shard(folder)
    sharded = Checkpoint.open(str(folder))
    assert sharded.shapes == single.shapes
    assert all(torch.equal(sharded.tensor(k), v) for k, v in tensors.items())
    check_compatible(single, sharded)
    live = load_live(sharded, torch.float32, torch.device("cpu"))
    names = {p.parameter: key for key, p in Blueprint.of(sharded).places.items()}
    assert sorted(names.values()) == sorted(single.shapes)
    assert all(torch.equal(p, tensors[names[n]]) for n, p in live.named_parameters())
    assert not live.training
    assert not any(p.requires_grad for p in live.parameters())


def test_content_hash_follows_content_not_place(family: dict[str, str], folder: Path) -> None:
    original = Checkpoint.open(family["a"]).content_hash
    assert Checkpoint.open(str(folder)).content_hash == original
    rewrite(folder, lambda t: t[NORM].add_(1e-6))
    changed = Checkpoint.open(str(folder)).content_hash
    edit(folder / "config.json", rms_norm_eps=1e-3)
    assert len({original, changed, Checkpoint.open(str(folder)).content_hash}) == 3


def hub_cache(folder: Path, root: Path) -> Path:
    """The folder as the hub cache would hold it: links into a folder of blobs."""
    blobs, snapshot = root / "models--o--m" / "blobs", root / "models--o--m" / "snapshots" / "0f"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{i}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{i}")
    return snapshot


@pytest.mark.parametrize("sharded", [False, True])
def test_the_hub_cache_is_accepted(folder: Path, tmp_path: Path, sharded: bool) -> None:
    if sharded:
        shard(folder)
    snapshot = hub_cache(folder, tmp_path / "hub")
    assert Checkpoint.open(str(snapshot)).shapes == Checkpoint.open(str(folder)).shapes


def test_a_link_is_followed_to_blobs_only_in_the_hub_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    shutil.move(folder / SINGLE, tmp_path / "blobs" / "0")
    shutil.move(folder, tmp_path / "models" / "x" / "a")
    inside = tmp_path / "models" / "x" / "a"
    (inside / SINGLE).symlink_to(tmp_path / "blobs" / "0")
    with pytest.raises(ConfigError, match=r"links outside the folder; refused"):
        Checkpoint.open(str(inside))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("cut", [0, 4, 8, 40, 0.3, 0.9, -1])
def test_truncated_weights_are_refused(folder: Path, cut: float, sharded: bool) -> None:
    name = shard(folder)[NORM] if sharded else SINGLE
    data = (folder / name).read_bytes()
    length = cut if isinstance(cut, int) else int(cut * len(data))
    (folder / name).write_bytes(data[:length])
    with pytest.raises(ConfigError, match=rf"{name} is damaged or truncated .*; download it again"):
        Checkpoint.open(str(folder))


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (10**12).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (60).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999]}}'.ljust(60),
        (60).to_bytes(8, "little")
        + b'{"a":{"dtype":"Q32","shape":[1],"data_offsets":[0,4]}}'.ljust(60),
        (100000).to_bytes(8, "little") + b'{"a":' * 20000,
    ],
    ids=["maximal", "huge", "list", "offsets", "dtype", "deep"],
)
def test_forged_headers_are_refused(folder: Path, header: bytes) -> None:
    (folder / SINGLE).write_bytes(header + bytes(16))
    with pytest.raises(ConfigError, match=r"model.safetensors is damaged or truncated"):
        Checkpoint.open(str(folder))


@pytest.mark.parametrize(
    "entry", ["../a/{}", "/etc/{}", "sub/{}", "..", ".", "", "./{}", "a\0b", "../../x"]
)
def test_an_index_that_points_outside_is_refused(folder: Path, entry: str) -> None:
    weight_map = shard(folder)
    write_index(folder, weight_map | {NORM: entry.format(weight_map[NORM])})
    with pytest.raises(ConfigError, match=r"the index points outside the folder: .*; refused"):
        Checkpoint.open(str(folder))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, sharded: bool) -> None:
    name = shard(folder)[NORM] if sharded else SINGLE
    shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match=rf"'{name}' links outside the folder; refused"):
        Checkpoint.open(str(folder))


def remove_shard(folder: Path) -> None:
    (folder / shard(folder)[NORM]).unlink()


def promise(folder: Path) -> None:
    write_index(folder, shard(folder) | {"model.extra.weight": "part-0.safetensors"})


def misplace(folder: Path) -> None:
    weight_map = shard(folder)
    other = next(f for f in weight_map.values() if f != weight_map[NORM])
    write_index(folder, weight_map | {NORM: other})


def empty_index(folder: Path) -> None:
    shard(folder)
    write_index(folder, {})


def pickles_only(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()


def nothing(folder: Path) -> None:
    (folder / SINGLE).unlink()


def text_in(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_shard, r"shard 'part-\d.safetensors' is missing; download the model again"),
        (promise, r"promises 'model.extra.weight' in part-0.safetensors, which does not hold it"),
        (misplace, rf"promises '{NORM}' in part-\d.safetensors, which does not hold it"),
        (empty_index, r"has no weight_map"),
        (pickles_only, r"has only pickle weights.*refused; convert them to safetensors"),
        (nothing, r"holds no model.safetensors and no index of shards"),
        (text_in("adapter_config.json", "{}"), r"is a LoRA adapter.*merge_and_unload"),
        (config(quantization_config={"bits": 4}), r"is quantized; merging needs full-precision"),
        (config(attn_implementation="org/kernel"), r"config.json asks for code from 'org/kernel'"),
        (lambda f: (f / "config.json").unlink(), r"holds no config.json"),
        (text_in("config.json", "[" * 100_000), r"config.json cannot be read"),
        (text_in("config.json", "[1]"), r"config.json is not a JSON object"),
    ],
)
def test_refusals(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=rf"^model '{folder}': .*{message}"):
        Checkpoint.open(str(folder))


def test_names_that_are_no_folder(family: dict[str, str], tmp_path: Path) -> None:
    for name, message in (
        (str(tmp_path / "no"), r"no such folder$"),
        (f"{family['a']}/config.json", r"is a file; give the folder that holds config.json"),
        ("zoo/nothing", r"no such folder; build the demo zoo with `evoaim zoo build`"),
    ):
        with pytest.raises(ConfigError, match=message):
            Checkpoint.open(name)


def untied_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1.0


def drop(key: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: t.pop(key))


def add(key: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: t.update({key: torch.ones(2)}))


def other_tokens(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["w0"], vocabulary["w1"] = vocabulary["w1"], vocabulary["w0"]
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (config(model_type="mistral"), r"architecture 'mistral', base has 'llama'"),
        (config(num_attention_heads=2), r"num_attention_heads 2, base has 4"),
        (config(hidden_act="gelu"), r"hidden_act 'gelu', base has 'silu'"),
        (drop(NORM), rf"tensor '{NORM}' is missing in the expert"),
        (add("model.new.weight"), r"tensor 'model.new.weight' does not exist in the base"),
        (add(NORM), rf"tensor '{NORM}' has shape \[2\], base has \[32\]$"),
        (
            add("model.embed_tokens.weight"),
            r"'model.embed_tokens.weight' has shape \[2\].*its vocabulary has another size",
        ),
        (lambda f: rewrite(f, untied_head), r"has an output head 'lm_head"),
        (other_tokens, r"token 'w0' has id 4 in the expert and 3 in the base"),
    ],
)
def test_experts_that_do_not_fit(
    family: dict[str, str], folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    base = Checkpoint.open(family["base"])
    check_compatible(base, Checkpoint.open(str(folder)))
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        check_compatible(base, Checkpoint.open(str(folder)))


def test_what_is_redundant_is_fine(family: dict[str, str], folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    edit(folder / "config.json", quantization_config=None, num_attention_heads=4)
    check_compatible(Checkpoint.open(family["base"]), Checkpoint.open(str(folder)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop(NORM), rf"parameter '{NORM}' \[32\] has no tensor of that name and shape"),
        (config(hidden_size=64), r"parameter 'model.embed_tokens.weight' \[67, 64\] has no tensor"),
        (config(num_hidden_layers=5), r"parameter 'model.layers.3.*has no tensor"),
        (config(model_type="nonsense"), r"transformers cannot load it as a causal LM"),
        (config(hidden_size="x"), r"cannot load it as a causal LM .*expected int, got str"),
    ],
)
def test_a_model_with_missing_weights_is_not_filled_at_random(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load_live(str(folder), torch.float32, torch.device("cpu"))
