"""The conversions that transformers applies on loading, as arithmetic on shapes and positions.

transformers renames checkpoint tensors and packs some together (experts into one 3-D parameter).
Its tables of renamings and operations are replayed here on blocks that carry positions instead of
values; what comes out says where every checkpoint tensor lies in the live model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Block:
    """A tensor that is made of checkpoint tensors: its shape, and the position of each in it.

    An index has one entry for every axis of `shape`.
    """

    shape: tuple[int, ...]
    pieces: tuple[tuple[str, Index], ...]

    @classmethod
    def of(cls, key: str, shape: tuple[int, ...]) -> "Block":
        """A checkpoint tensor by itself."""
        return cls(shape, ((key, tuple(slice(0, n) for n in shape)),))

    @property
    def keys(self) -> tuple[str, ...]:
        """The checkpoint tensors in it."""
        return tuple(key for key, _ in self.pieces)


def stack(blocks: Sequence[Block], axis: int) -> Block:
    """As torch.stack.

    Raises:
        ValueError: the shapes differ.
    """
    shape = blocks[0].shape
    if odd := [b for b in blocks if b.shape != shape]:
        raise _misfit(blocks[0], odd[0])
    pieces = [
        (key, (*index[:axis], i, *index[axis:]))
        for i, block in enumerate(blocks)
        for key, index in block.pieces
    ]
    return Block((*shape[:axis], len(blocks), *shape[axis:]), tuple(pieces))


def concatenate(blocks: Sequence[Block], axis: int) -> Block:
    """As torch.cat.

    Raises:
        ValueError: the shapes differ in another axis than `axis`.
    """
    shape = blocks[0].shape
    pieces: list[tuple[str, Index]] = []
    start = 0
    for block in blocks:
        if (*block.shape[:axis], shape[axis], *block.shape[axis + 1 :]) != shape:
            raise _misfit(blocks[0], block)
        for key, index in block.pieces:
            at = index[axis]
            moved = at + start if isinstance(at, int) else slice(at.start + start, at.stop + start)
            pieces.append((key, (*index[:axis], moved, *index[axis + 1 :])))
        start += block.shape[axis]
    return Block((*shape[:axis], start, *shape[axis + 1 :]), tuple(pieces))


def arranged(model: Any, checkpoint: Checkpoint) -> dict[str, Block]:
    """Name in the live model (or nowhere in it) -> the checkpoint tensors that make it up.

    Follows `convert_and_load_state_dict_in_model` of transformers.core_model_loading.

    Raises:
        ConfigError: a conversion that is not one of stacking and concatenating.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    mapping = get_model_conversion_mapping(model)
    renamings = [m for m in mapping if isinstance(m, WeightRenaming)]
    converters = [m for m in mapping if isinstance(m, WeightConverter)]
    by_pattern = {p: c for c in converters for p in c.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    simple: dict[str, Block] = {}
    packed: dict[str, dict[str, list[Block]]] = {}
    for key in sorted(checkpoint.shapes, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        block = Block.of(key, checkpoint.shapes[key])
        if pattern is None and name in simple:
            raise ConfigError(
                f"model '{checkpoint.name}': tensors '{simple[name].keys[0]}' and '{key}' are both "
                f"the parameter '{name}'; remove one of them"
            )
        if pattern is None:
            simple[name] = block
        else:
            packed.setdefault(name, {}).setdefault(pattern, []).append(block)
    for name, sources in packed.items():
        converter = by_pattern[next(iter(sources))]
        ordered = [sources[p] for p in converter.source_patterns if p in sources]
        simple[name] = _converted(checkpoint, converter, ordered)
    return simple


def _misfit(one: Block, other: Block) -> ValueError:
    return ValueError(
        f"tensor '{one.keys[0]}' and others that transformers packs into one parameter on loading "
        f"do not fit together ({list(one.shape)} and '{other.keys[0]}' {list(other.shape)}); is "
        "one missing?"
    )


def _converted(checkpoint: Checkpoint, converter: Any, sources: list[list[Block]]) -> Block:
    """The converter's operations on lists of blocks, one list a source pattern."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    blocks = sources
    try:
        for operation in converter.operations:
            if isinstance(operation, MergeModulelist):
                blocks = [[stack(part, operation.dim)] for part in blocks]
            elif isinstance(operation, Concatenate):
                blocks = [[concatenate([b for part in blocks for b in part], operation.dim)]]
            else:
                raise ValueError(
                    f"tensor '{sources[0][0].keys[0]}' is converted by {type(operation).__name__} "
                    "when transformers loads it, which is not supported"
                )
    except ValueError as error:
        raise ConfigError(f"model '{checkpoint.name}': {error}") from None
    return blocks[0][0]
