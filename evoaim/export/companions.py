"""The files beside the weights, such that transformers 4 and 5 read the same from them.

Everything is the base's byte for byte, but for what one of the two majors misreads and for paths
of the machine that a model was saved on.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from evoaim.chat_template import chat_template, write_chat_template
from evoaim.merger import Merger
from evoaim.model_folder import read_json
from evoaim.tokenizer import TOKENIZER_FILES
from search_spaces.recipe import Recipe

LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
# Where transformers notes from which path something was loaded.
_ORIGINS = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "merges_file")
# What transformers 5 calls a fast tokenizer without a class of its own, and how both know it.
_TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# Architecture -> key of transformers 4 -> its name in transformers 5.
_RENAMED = {"qwen3_moe": {"num_experts": "num_local_experts"}}


def write_companions(merger: Merger, recipe: Recipe, folder: Path) -> None:
    """Tokenizer, chat template, generation settings and licence.

    Raises:
        ConfigError: a file of a model cannot be read, or links out of its folder.
        OSError: a file cannot be written.
    """
    for name in (*TOKENIZER_FILES, *LICENCES):
        donor = merger.base.file(name)
        if donor is not None:
            shutil.copyfile(donor, folder / name)
    if merger.tokenizer is not None:
        merger.tokenizer.write(folder)
    folders = [(model.name, model.folder) for model in merger.models.values()]
    template = chat_template(recipe.chat_template, folders)
    if template is not None:
        write_chat_template(template, folder)
    for name, portable in (
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", without_origins),
    ):
        if (folder / name).is_file():
            data = read_json(folder / name, str(folder))
            if (ours := portable(data)) != data:  # else the bytes stay as they are
                write_json(folder / name, ours)


def tokenizer_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that both majors read: transformers 5 renamed classes and keys."""
    config = without_origins(data)
    kind = config.get("tokenizer_class")
    config |= {"tokenizer_class": _TOKENIZER_CLASSES[kind]} if kind in _TOKENIZER_CLASSES else {}
    if isinstance(config.get("extra_special_tokens"), list):  # a mapping in transformers 4
        config.setdefault("additional_special_tokens", config.pop("extra_special_tokens"))
    return config


def model_config(data: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json with the dtype of the weights, that both majors read."""
    config = without_origins(data)
    config["dtype"] = config["torch_dtype"] = dtype
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            renamed = _RENAMED.get(str(part.get("model_type")), {})
            older = {old: part[new] for old, new in renamed.items() if new in part}
            for key, value in (older | _flat_rope(part)).items():
                part.setdefault(key, value)
    return config


def without_origins(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same without keys that hold a local path, at any depth."""
    return {
        k: without_origins(v) if isinstance(v, dict) else v
        for k, v in data.items()
        if not (k in _ORIGINS and isinstance(v, str) and _local(v))
    }


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Indented, UTF-8."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _flat_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys of rotary embeddings; without them transformers 4 silently takes theta 10000."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    flat: dict[str, Any] = {}
    local = rope.get("sliding_attention")
    if isinstance(local, dict) and isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]
        flat["rope_local_base_freq"] = local.get("rope_theta")
    theta, part = rope.get("rope_theta"), rope.get("partial_rotary_factor")
    flat |= {"rope_theta": theta, "partial_rotary_factor": part}
    if str(config.get("model_type")).startswith("gpt_neox"):
        flat |= {"rotary_emb_base": theta, "rotary_pct": part}
    kind = rope.get("rope_type", "default")
    if kind == "longrope":  # Phi-3 of transformers 4 accepts these three keys and no other
        factors = {k: rope.get(k) for k in ("short_factor", "long_factor")}
        flat["rope_scaling"] = {"type": kind, **factors}
    elif kind != "default":
        moved = ("rope_theta", "partial_rotary_factor")
        flat["rope_scaling"] = {k: v for k, v in rope.items() if k not in moved}
    return {k: v for k, v in flat.items() if v is not None}


def _local(path: str) -> bool:
    return (
        path.startswith((".", "~"))
        or PurePosixPath(path).is_absolute()
        or PureWindowsPath(path).is_absolute()
    )
