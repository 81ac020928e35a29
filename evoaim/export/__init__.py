"""One merged model as an ordinary Hugging Face checkpoint folder, written whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.export.accounting import Accounts, account
from evoaim.export.companions import model_config, write_companions, write_json
from evoaim.export.shards import check_space, write_shards
from evoaim.export.texts import Exported, kept_statistics, public_names, write_texts
from evoaim.kernel import BASE, Written
from evoaim.live import DTYPES
from evoaim.merger import Merger
from evoaim.placement import size_text
from evoaim.plan import Planner

__all__ = ["Exported", "check_target", "export_model", "public_names"]

BESIDE = 1 << 25  # bytes for what lies beside the weights


def export_model(merger: Merger, exported: Exported, out: Path, dtype: str) -> Path:
    """Write the merged checkpoint, its tokenizer, card and recipe to `out`.

    Tensors go to disk one by one; no live model is built, nor a second copy of the weights.

    Args:
        merger: with the recipe's models open.
        exported: the recipe and what is known of it.
        out: a folder that does not exist or is empty.
        dtype: of the stored weights: float32, bfloat16 or float16.

    Raises:
        ConfigError: `out` is not empty or cannot be written, its disk has too little room, or the
            recipe does not fit the merger's models.
        CandidateError: the merged weights are not finite.
    """
    out = out.resolve()
    check_target(out)
    planner = merger.planner(exported.recipe)
    accounts = account(merger, planner, DTYPES[dtype])
    measured = kept_statistics(exported.recipe).values()
    needed = sum(slot.n_bytes for slot in accounts.slots.values()) + BESIDE
    needed += sum(file.stat().st_size for file in measured)
    check_space(out, needed)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_shards(
            temporary, accounts.slots, lambda keys: _tensors(merger, planner, accounts, keys)
        )
        write_json(temporary / "config.json", model_config(accounts.config, dtype))
        write_companions(merger, exported.recipe, temporary)
        write_texts(merger, exported, accounts, temporary, dtype)
        accounts.check(temporary)
        _settle(temporary)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise ConfigError(
            f"'{out}': cannot be written ({error.strerror or error}); {size_text(needed)} are "
            "needed; nothing was left behind"
        ) from None
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


def _tensors(
    merger: Merger, planner: Planner, accounts: Accounts, keys: Sequence[str]
) -> Iterator[Tensor]:
    """The output's tensors in order; while one goes to disk, the next is being merged.

    They lie in two buffers in turns: a tensor is good until the one after the next is asked for.
    """
    largest = max((accounts.slots[k].n_bytes for k in keys if k not in accounts.copied), default=0)
    buffers = [torch.empty(largest, dtype=torch.uint8, device=merger.device) for _ in range(2)]
    before: tuple[str, Tensor, Written] | None = None
    for i, key in enumerate(keys):
        if key in accounts.copied:
            now = key, merger.models[BASE].tensor(accounts.copied[key]), Written()
        else:
            slot = accounts.slots[key]
            out = buffers[i % 2][: slot.n_bytes].view(slot.dtype).view(slot.shape)
            now = key, out, merger.merge_into(out, key, planner)
        if before is not None:
            merger.check_finite({before[0]: before[2]}, planner)
            yield before[1]
        before = now
    if before is not None:
        merger.check_finite({before[0]: before[2]}, planner)
        yield before[1]


def _settle(folder: Path) -> None:
    """Readable as the umask says, and on the disk, not in its cache."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            path.chmod(0o666 & ~umask)
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
