"""RAM+, tensor-local: RAM with what only one expert changed scaled up, by how much it shares.

    y = x0 + sum_i s_i lambda_i (active alone) + mean of the active s_i (elsewhere)
    lambda_i = 1 + r * min(alpha, shared_i / unique_i)

with the numbers of elements of the tensor where expert i is active together with others, and alone;
`s` and activity as in RAM.
"""

import torch

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.methods.ram import EPSILON, active_mean
from evoaim.statistics import CHUNK, TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2601.13572"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "r": Parameter(
        "strength of the rescaling", 0.1, 0.1, 0.0, legal=(0.0, 100.0), search=(0.0, 1.0)
    ),
    "alpha": Parameter(
        "upper limit of shared over unique", 0.2, 0.2, 0.0, legal=(0.0, 1e6), search=(0.0, 2.0)
    ),
    "epsilon": EPSILON,
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """RAM's terms, weighted by lambda."""
    r, alpha, epsilon = (float(inputs.shared[n]) for n in ("r", "alpha", "epsilon"))
    counts = tensor.recent(
        ("ram", inputs.experts, epsilon), lambda: _counts(tensor, inputs.experts, epsilon)
    )
    weights = [
        1.0 + r * min(alpha, shared / max(alone, epsilon, 1e-30)) for shared, alone in counts
    ]
    terms = tuple(Term(e, w) for e, w in zip(inputs.experts, weights, strict=True))
    return Mix(terms, update=active_mean, scalars=(epsilon,))


def _counts(
    tensor: TensorStatistics, experts: tuple[str, ...], epsilon: float
) -> list[tuple[int, int]]:
    """Of every expert: elements where it is active with others, and alone."""
    shared = [0] * len(experts)
    alone = [0] * len(experts)
    for start in range(0, tensor.size, CHUNK):
        stop = min(start + CHUNK, tensor.size)
        active = torch.stack([tensor.chunk(e, start, stop).abs() > epsilon for e in experts])
        several = active.sum(0) > 1
        for i, mask in enumerate(active):
            shared[i] += int((mask & several).sum())
            alone[i] += int((mask & ~several).sum())
    return list(zip(shared, alone, strict=True))
