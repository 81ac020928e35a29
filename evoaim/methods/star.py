"""STAR: drop the tail of each delta's singular values and give the rest its nuclear norm back.

Per expert the smallest number r of triplets is kept whose singular values sum to at least the
fraction eta of all of them; the kept ones are multiplied by (sum of all) / (sum of kept). Then the
deltas are averaged. Because that factor is one number, an expert's trimmed delta is its projection
on r singular vectors: those of the smaller side are all that is kept.
"""

import torch
from torch import Tensor

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs, weighted_sum
from evoaim.methods._dense import (
    WEIGHT,
    combined,
    is_matrix,
    kept,
    matrix,
    oriented,
    ratios,
    rounded,
)
from evoaim.methods._shared import LAMBDA, normalize
from evoaim.methods._spectral import thin
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2502.10339"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": WEIGHT,
    "eta": Parameter(
        "fraction eta of the nuclear norm that the kept singular values hold",
        0.4,
        published=0.4,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.05, 1.0),
        per_model=True,
    ),
    "lambda": LAMBDA,
    "normalize": normalize(True),
}
PREPARES = (1.0, 1.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The weighted sum of the trimmed deltas as a dense delta."""
    etas = inputs.numbers("eta")
    pairs = zip(inputs.experts, inputs.weights(), strict=True)
    whole = weighted_sum([Term(e, w) for e, w in pairs], inputs)
    if not is_matrix(tensor) or min(etas) >= 1.0:
        return whole
    scale, relative = ratios(inputs.weights())

    def total() -> Tensor:
        d = torch.zeros((), device=tensor.device)
        for e, w, eta in zip(inputs.experts, relative, etas, strict=True):
            d = d + w * _trimmed(tensor, e, eta)
        return kept(tensor, d)

    dense = tensor.latest("star", (inputs.experts, relative, tuple(etas)), total)
    return Mix((), 1.0, whole.scale, combined, (dense,), (scale,))


def _trimmed(tensor: TensorStatistics, expert: str, eta: float) -> Tensor:
    """An expert's delta (..., out, in) with the tail of its spectrum moved to the head."""
    d = oriented(tensor, tensor.delta(expert).to(tensor.device))
    if eta >= 1.0:
        return d
    q, s = tensor.once(("star", expert), lambda: _side(tensor, expert))
    sums, total = s.cumsum(-1), s.sum(-1, keepdim=True)
    last = (sums < eta * total).sum(-1, keepdim=True).clamp(max=s.shape[-1] - 1)
    head = (
        torch.arange(int(last.max()) + 1, device=s.device) <= last
    )  # (..., the most that is kept)
    within = sums.gather(-1, last)
    factor = torch.where(within > 0, total / torch.where(within > 0, within, 1.0), 0.0)
    basis = q[..., : head.shape[-1]].float()
    scaled = basis * (head * factor).float()[..., None, :]
    if q.shape[-2] == d.shape[-2]:
        return scaled @ (basis.mT @ d)
    return (d @ basis) @ scaled.mT


def _side(tensor: TensorStatistics, expert: str) -> tuple[Tensor, Tensor]:
    """Singular vectors of the smaller side as columns, and all singular values in float64."""
    d = matrix(tensor, expert)
    found = thin(d)
    side = found.u if d.shape[-2] <= d.shape[-1] else found.v
    return rounded(tensor, side), found.s
