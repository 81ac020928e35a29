"""Coins: a counter-based hash of (seed, expert, tensor, element), the same on every device."""

from hashlib import blake2b

import torch
from torch import Tensor

MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
BLOCK = 0x9E3779B9  # mixes in the part of an index above 2^32


def mask_key(seed: int, expert: str, tensor: str) -> int:
    """The 64-bit key of one expert's random mask of one tensor; `expert` is its `fingerprint`."""
    text = f"{seed}\0{expert}\0{tensor}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def coin(key: int, start: int, n: int, device: torch.device) -> Tensor:
    """Hashes of elements start .. start+n-1, uniform on [0, 2^32): (n,) int64.

    A 32-bit finalizer over the index, keyed before and in its middle, so the value depends on
    nothing but key and index: not on device, chunk or order.
    """
    index = torch.arange(start, start + n, device=device)
    return hashed(index, torch.tensor(key & 0xFFFFFFFF, device=device), key >> 32)


def hashed(index: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """The hash of every element index (n,) int64 under the key's low and high 32 bits."""
    mask = 0xFFFFFFFF
    x = (index & mask) ^ low ^ ((index >> 32) * BLOCK & mask)
    x = x ^ (x >> 16)
    x = (x * MULTIPLIERS[0] + high) & mask
    x = x ^ (x >> 15)
    x = x * MULTIPLIERS[1] & mask
    return x ^ (x >> 16)
