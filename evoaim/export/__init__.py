"""One merged model as an ordinary Hugging Face checkpoint folder, written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evoaim.checkpoint import Checkpoint
from evoaim.engine import MergeEngine
from evoaim.errors import CandidateError, ConfigError
from evoaim.export.card import Card, model_card
from evoaim.live import DTYPES
from search_spaces import strict_yaml
from search_spaces.recipe import Recipe

SHARD_BYTES = 5_000_000_000
IMPORTANCE = "reproduce/importance.safetensors"  # not beside the weights: some loaders glob there
# Copied from the base byte for byte: transformers 5 rewrites tokenizers so that 4.x refuses them.
_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
)


@dataclass(frozen=True)
class Exported:
    """What stands in an exported folder besides the weights."""

    recipe: Recipe
    scores: Mapping[str, Any]  # objective -> {"value", "stderr"} on the report documents; may be {}
    experiment: str = ""


def export_model(engine: MergeEngine, exported: Exported, out: Path, dtype: str) -> Path:
    """Write the merged checkpoint, its tokenizer, card and recipe to `out`.

    Args:
        engine: with the recipe's models loaded.
        exported: the recipe and what is known of it.
        out: a folder that does not exist or is empty.
        dtype: of the stored weights: float32, bfloat16 or float16.

    Raises:
        ConfigError: `out` is not empty or cannot be written.
        CandidateError: the merged weights are not finite.
    """
    out = out.resolve()
    check_target(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _weights(engine, exported.recipe, temporary, DTYPES[dtype])
        _config(engine.base, temporary, dtype)
        for name in _COPIED:
            if (donor := engine.base.file(name)) is not None:
                shutil.copyfile(donor, temporary / name)
        _texts(engine, exported, temporary, dtype)
        umask = os.umask(0)
        os.umask(umask)
        for file in temporary.rglob("*.*"):
            file.chmod(0o666 & ~umask)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise ConfigError(f"'{out}': cannot be written ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def check_target(out: Path) -> None:
    """Refuse to overwrite.

    Raises:
        ConfigError: `out` is a file or a folder that is not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"'{out}': exists already; give a new or empty folder")


def _weights(engine: MergeEngine, recipe: Recipe, folder: Path, dtype: torch.dtype) -> None:
    """Shards of merged tensors under the base checkpoint's names."""
    shards = list(_sharded(_sizes(engine, dtype)))
    digits = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = digits if len(shards) > 1 else ["model.safetensors"]
    live = {key: name for name, key in engine.names.items()}
    planner = engine.planner(recipe)
    device = next(engine.live.parameters()).device
    weight_map, total = {}, 0
    for file, keys in zip(names, shards, strict=True):
        tensors: dict[str, Tensor] = {}
        for key in keys:
            if key in live:
                out = torch.empty(engine.base.shapes[key], dtype=dtype, device=device)
                with torch.no_grad():
                    if not torch.isfinite(engine.merge_into(out, live[key], planner)):
                        raise CandidateError(f"the merged weights of '{key}' are not finite")
            else:  # a buffer: not a parameter, so nothing to merge
                out = engine.base.tensor(key)
            tensors[key] = out.cpu().contiguous()
            weight_map[key], total = file, total + out.numel() * out.element_size()
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _json(folder / "model.safetensors.index.json", index)


def _sizes(engine: MergeEngine, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of every tensor to be written; a head that tying makes redundant is left out."""
    merged = set(engine.names.values())
    parameters = {n for n, _ in engine.live.named_parameters(remove_duplicate=False)}
    tied = {n for n in parameters if n not in engine.names}
    keys = [k for k in engine.base.shapes if k in merged or k not in tied]
    return {k: torch.Size(engine.base.shapes[k]).numel() * dtype.itemsize for k in keys}


def _sharded(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    shard: list[str] = []
    used = 0
    for key, size in sizes.items():
        if shard and used + size > SHARD_BYTES:
            yield shard
            shard, used = [], 0
        shard.append(key)
        used += size
    yield shard


def _config(base: Checkpoint, folder: Path, dtype: str) -> None:
    """The base's config with the dtype of the weights, readable by transformers 4 and 5."""
    config = dict(base.config)
    config.pop("_name_or_path", None)
    config["dtype"] = config["torch_dtype"] = dtype
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        # transformers 4 reads only the flat keys and else silently takes theta 10000
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    _json(folder / "config.json", config)


def _texts(engine: MergeEngine, exported: Exported, folder: Path, dtype: str) -> None:
    public = public_names([c.name for c in (engine.base, *engine.experts.values())])
    recipe = _portable(replace(exported.recipe, out_dtype=dtype), public)
    importance = engine.importance_of(exported.recipe)
    if importance is not None and recipe.aim is not None:
        importance.save(folder / IMPORTANCE)
        recipe = replace(recipe, aim=replace(recipe.aim, importance=IMPORTANCE))
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    config = recipe.to_mergekit()
    if recipe.dtype is None:
        config["dtype"] = "float32"  # what our arithmetic is; mergekit's default is the inputs'
    note = "# The merge without its AIM step, which mergekit does not have.\n" if recipe.aim else ""
    if recipe.merge_method.startswith("dare"):
        note += "# mergekit draws other random masks.\n"
    (folder / "mergekit_config.yml").write_text(note + strict_yaml.dump(config), encoding="utf-8")
    parents = [public[c.name] for c in (engine.base, *engine.experts.values())]
    tokenizer = (engine.base.folder / "tokenizer_config.json").is_file()
    card = Card(recipe, parents, exported.scores, exported.experiment, tokenizer)
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")


def _portable(recipe: Recipe, public: Mapping[str, str]) -> Recipe:
    """The recipe without paths of this machine."""
    aim = recipe.aim
    if aim is not None:
        base = public.get(aim.base_model or "", aim.base_model)
        aim = replace(aim, importance=None, base_model=base)
    return replace(
        recipe,
        base_model=public.get(recipe.base_model or "", recipe.base_model),
        models=tuple(replace(s, model=public.get(s.model, s.model)) for s in recipe.models),
        aim=aim,
    )


def public_names(models: Sequence[str]) -> dict[str, str]:
    """Names that may be published: hub ids and relative paths stay, absolute ones lose parents.

    As many parents stay as are needed to tell the models apart.
    """
    paths = {m: Path(m).expanduser() for m in models}
    local = [m for m, p in paths.items() if p.is_absolute() or ".." in p.parts]
    for kept in range(1, max((len(paths[m].parts) for m in local), default=1) + 1):
        names = {m: "/".join(paths[m].parts[-kept:]) if m in local else m for m in models}
        if len(set(names.values())) == len(set(models)):
            break
    return {m: n.strip("/") for m, n in names.items()}


def _json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
