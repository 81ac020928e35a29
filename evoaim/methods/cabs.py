"""CABS: experts take turns to keep the n largest deltas of every m elements, each what is free.

    s_i = in each block of m consecutive elements the n_i largest |d_i| that no earlier expert kept
    y   = x0 + sum_i w_i s_i          n_i = density_i m

Experts come in the order of their `priority`, largest first, equal ones in the recipe's order (the
paper: the strongest first). Where fewer than n_i elements are free, the expert keeps those and its
largest among the others, as the paper's code does for two experts. A last block of l < m elements
keeps ceil(n_i l / m) of them; the paper's codes leave it at the base or refuse it.

Masks are prepared for one choice of densities, m and order, the last one used.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from evoaim.kernel import Bits, Mix, Term
from evoaim.methods import Inputs
from evoaim.methods._shared import weight
from evoaim.statistics import CHUNK, TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2503.01874"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": weight(1.2),
    "density": Parameter(
        "fraction n/m of each block that is kept",
        default=0.25,
        published=0.25,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.05, 1.0),
        per_model=True,
    ),
    "m": Parameter(
        "elements of a block",
        default=256.0,
        published=256.0,
        legal=(1.0, 65536.0),
        whole=True,
    ),
    "priority": Parameter(
        "place of the model in the order: larger ones choose first",
        default=0.0,
        published=0.0,
        search=(0.0, 1.0),
        per_model=True,
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, masked by its turn."""
    m, own = round(float(inputs.shared["m"])), inputs.own
    turns = sorted(inputs.experts, key=lambda e: -float(own[e]["priority"]))
    counts = tuple(_count(float(own[e]["density"]), m) for e in turns)
    if all(n == m for n in counts):
        masks = dict.fromkeys(turns)
    else:
        key = (m, tuple(turns), counts)
        masks = tensor.latest("cabs", key, lambda: _masks(tensor, turns, counts, m))
    terms = zip(inputs.experts, inputs.weights(), strict=True)
    return Mix(tuple(Term(e, w, keep=masks[e]) for e, w in terms if w != 0.0))


def _count(density: float, m: int) -> int:
    return max(1, round(density * m)) if density > 0.0 else 0


def _masks(
    tensor: TensorStatistics, turns: list[str], counts: tuple[int, ...], m: int
) -> dict[str, Bits | None]:
    kept = torch.empty(len(turns), tensor.size, dtype=torch.uint8)
    step = max(1, CHUNK // m) * m

    def write(at: int) -> None:
        stop = min(at + step, tensor.size)
        sizes = np.stack([tensor.chunk(e, at, stop).abs().numpy() for e in turns])
        _take_turns(sizes.view(np.uint32), np.array(counts), m, kept[:, at:stop].numpy())

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(write, range(0, tensor.size, step)):  # raises what a thread raised
            pass
    return {e: Bits(_placed(kept[i], tensor)) for i, e in enumerate(turns)}


def _placed(mask: Tensor, tensor: TensorStatistics) -> Tensor:
    return mask.view(torch.bool).view(tensor.shape).to(tensor.device)


@njit(nogil=True, cache=True)
def _take_turns(bits: Any, counts: Any, m: int, kept: Any) -> None:
    """Set kept (e, n) uint8 from the bits of magnitudes (e, n) float32 of whole blocks."""
    free, keys = np.empty(m, np.uint32), np.empty(m, np.uint32)
    for start in range(0, bits.shape[1], m):
        size = min(m, bits.shape[1] - start)
        free[:] = np.uint32(0x80000000)
        for i in range(len(bits)):
            row, out = bits[i, start : start + size], kept[i, start : start + size]
            part = keys[:size]
            for j in range(size):
                part[j] = row[j] | free[j]  # what is free comes before all that is not
            _keep_top(part, -(-counts[i] * size // m), out)
            for j in range(size):
                if out[j]:
                    free[j] = 0


@njit(nogil=True, cache=True)
def _keep_top(keys: Any, n: int, out: Any) -> None:
    """Set out (k,) to 1 at the n largest keys (k,) uint32, the first of equal ones, else to 0."""
    threshold = np.uint32(0)  # the n-th largest, bit by bit: no branches, no sort
    for b in range(31, -1, -1):
        candidate = np.uint32(threshold | np.uint32(np.uint32(1) << np.uint32(b)))
        count = np.uint32(0)
        for j in range(keys.size):
            count += np.uint32(keys[j] >= candidate)
        if count >= n:
            threshold = candidate
        if count == n:
            break
    rest = n
    for j in range(keys.size):
        out[j] = keys[j] > threshold
        rest -= out[j]
    for j in range(keys.size):
        if rest > 0 and keys[j] == threshold:
            out[j] = 1
            rest -= 1
