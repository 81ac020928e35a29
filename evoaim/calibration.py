"""Calibration text to token blocks, and importance measured once per base and text."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.importance import Importance, calibrate

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


def check_context(live: nn.Module, blocks: Sequence[Tensor]) -> None:
    """Refuse blocks that are longer than the base's context.

    Raises:
        ConfigError: they are.
    """
    context = getattr(live.config, "max_position_embeddings", None)
    longest = max((block.shape[1] for block in blocks), default=0)
    if context is not None and longest > context:
        raise ConfigError(
            f"calibration.block_size: the base has {context} positions, got blocks of {longest}"
        )


def importance_of(base: Checkpoint, live: nn.Module, blocks: Sequence[Tensor]) -> Importance:
    """The base's importance on these blocks, from the cache if it was measured before.

    The cache (`$EVOAIM_CACHE`, else `~/.cache/evoaim`) is keyed by the content of weights and text.

    Raises:
        ConfigError: no tokens, or blocks longer than the base's context.
    """
    check_context(live, blocks)
    digest = sha256(f"{base.content_hash} {next(live.parameters()).dtype}".encode())
    for block in blocks:
        digest.update(str(tuple(block.shape)).encode() + block.numpy().tobytes())
    home = Path(os.environ.get("EVOAIM_CACHE") or Path.home() / ".cache" / "evoaim")
    file = home / "importance" / f"{digest.hexdigest()}.safetensors"
    with suppress(ConfigError):  # not there, or damaged: measured (again)
        return Importance.load(file)
    measured = calibrate(live, blocks)
    if measured is None:
        raise ConfigError("calibration: no text")
    measured = Importance(measured.channels, {**measured.origin, "base": base.content_hash})
    with suppress(ConfigError):  # a cache that cannot be written is no reason to stop
        measured.save(file)
    return measured
