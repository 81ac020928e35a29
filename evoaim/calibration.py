"""Calibration text to token blocks, and what is measured once per model and text."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint, Weights
from evoaim.data_statistics import FORMAT as STATISTICS_FORMAT
from evoaim.data_statistics import DataStatistics, write
from evoaim.errors import ConfigError
from evoaim.importance import Importance, calibrate
from evoaim.importance_file import FORMAT
from evoaim.measurement import measure

BATCH_TOKENS = 8192


def read_texts(path: str | Path, documents: int) -> list[str]:
    """The first `documents` texts: the field `text` of JSON lines, or the lines of a .txt file.

    Raises:
        ConfigError: the file is missing, holds no text, or fewer texts than asked.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = list(islice((line.strip() for line in file if line.strip()), documents))
    except FileNotFoundError:
        raise ConfigError(f"calibration.data: '{path}': no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"calibration.data: '{path}': cannot be read ({error})") from None
    if Path(path).suffix == ".txt":
        texts = lines
    else:
        try:
            texts = [str(json.loads(line)["text"]) for line in lines]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"calibration.data: '{path}': JSON lines with a field 'text' expected "
                "(a .txt file is read line by line)"
            ) from None
    if not texts:
        raise ConfigError(f"calibration.data: '{path}': holds no text")
    if len(lines) < documents:
        raise ConfigError(f"calibration.documents: {documents} asked, '{path}' holds {len(lines)}")
    return texts


def token_blocks(tokenizer: Any, texts: Sequence[str], block_size: int) -> list[Tensor]:
    """Texts, each tokenized with special tokens, joined and cut into blocks: (n, block_size) each.

    As AIM's authors do: the blocks run across documents and a short tail is dropped (kept, if
    there is not even one whole block).
    """
    ids = [i for text in texts for i in tokenizer(text)["input_ids"]]
    whole = len(ids) // block_size * block_size
    if whole == 0:
        return [torch.tensor([ids])] if ids else []
    blocks = torch.tensor(ids[:whole]).view(-1, block_size)
    n = max(1, BATCH_TOKENS // block_size)
    return [blocks[i : i + n] for i in range(0, len(blocks), n)]


def check_context(config: Any, blocks: Sequence[Tensor]) -> None:
    """Refuse blocks that are longer than the base's context.

    Raises:
        ConfigError: they are.
    """
    context = getattr(config, "max_position_embeddings", None)
    longest = max((block.shape[1] for block in blocks), default=0)
    if context is not None and longest > context:
        raise ConfigError(
            f"calibration.block_size: the base has {context} positions, got blocks of {longest}"
        )


def importance_of(base: Checkpoint, live: nn.Module, blocks: Sequence[Tensor]) -> Importance:
    """The base's importance on these blocks, by checkpoint key; from the cache if measured before.

    The cache (`$EVOAIM_CACHE`, else `~/.cache/evoaim`) is keyed by the content of weights and text.

    Raises:
        ConfigError: no tokens, or blocks longer than the base's context.
    """
    check_context(live.config, blocks)
    file = _cached("importance", (FORMAT, base.content_hash, _dtype(live)), blocks)
    with suppress(ConfigError):  # not there, or damaged: measured (again)
        return Importance.load(file)
    measured = calibrate(live, blocks)
    if measured is None:
        raise ConfigError("calibration: no text")
    measured = measured.fitted(Blueprint.of(base))
    measured = replace(measured, origin={**measured.origin, "base": base.content_hash})
    with suppress(ConfigError):  # a cache that cannot be written is no reason to stop
        measured.save(file)
    return measured


def statistics_of(
    model: Weights,
    live: nn.Module,
    blueprint: Blueprint,
    blocks: Sequence[Tensor],
    kinds: Sequence[str],
) -> DataStatistics:
    """A model's statistics on these blocks; from the cache if they were measured before.

    Args:
        model: whose weights they are.
        live: holds them.
        blueprint: by whose keys the statistics are named.
        blocks: token ids, (n, block) each.
        kinds: what to measure.

    Raises:
        ConfigError: see `measure`; or the cache cannot be written.
    """
    check_context(live.config, blocks)
    header = (STATISTICS_FORMAT, model.content_hash, _dtype(live), *kinds)
    file = _cached("statistics", header, blocks)
    with suppress(ConfigError):  # not there, or damaged: measured (again)
        return DataStatistics.open(file)
    write(file, measure(live, blueprint, blocks, kinds), origin_of(model, blocks))
    return DataStatistics.open(file)


def origin_of(model: Weights, blocks: Sequence[Tensor]) -> dict[str, str]:
    """What statistics say of where they come from."""
    tokens = sum(block.numel() for block in blocks)
    return {"model": model.content_hash, "tokens": str(tokens), "text": _digest("", blocks)}


def _cached(kind: str, header: Sequence[str], blocks: Sequence[Tensor]) -> Path:
    home = Path(os.environ.get("EVOAIM_CACHE") or Path.home() / ".cache" / "evoaim")
    return home / kind / f"{_digest(' '.join(header), blocks)}.safetensors"


def _dtype(live: nn.Module) -> str:
    return str(next(live.parameters()).dtype)


def _digest(header: str, blocks: Sequence[Tensor]) -> str:
    digest = sha256(header.encode())
    for block in blocks:
        digest.update(str(tuple(block.shape)).encode() + block.numpy().tobytes())
    return digest.hexdigest()
