"""WUDI: the delta that interferes least with every expert's own row space.

The optimum of sum_i ||(D - w_i d_i) d_i^T||^2 / ||d_i||^2 in closed form. With K_i = d_i^T d_i /
||d_i||^2 and D0 = sum_i w_i d_i, where the paper starts,

    D = (sum_i w_i d_i K_i + r D0) (sum_i K_i + r I)^-1,    r = ridge * mean diagonal of sum_i K_i.

The paper takes 300 steps of Adam from D0, which ends on the way to the optimum: a larger ridge ends
closer to D0. D is linear in the weights, so each expert's share of it is prepared once and
candidates only mix the shares. As the authors' code for language models, the norm is squared and
matrices in the blocks are merged so; the rest gets the mean delta, as in FusionBench.
"""

import torch
from torch import Tensor

from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT, dense, is_matrix, kept, matrix, mean
from evoaim.methods._shared import LAMBDA
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2503.08099"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": WEIGHT,
    "lambda": LAMBDA,
    "ridge": Parameter(
        "pull towards the sum of the deltas, over the mean diagonal of the Gram matrices",
        default=0.01,
        published=0.01,
        legal=(1e-9, 1e9),
        search=(1e-3, 1e-1),
        log=True,
    ),
}
PREPARES = (0.0, 1.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The experts' shares of the optimum, weighted."""
    if len(inputs.experts) == 1 or not is_matrix(tensor):
        return mean(inputs)
    ridge = float(inputs.shared["ridge"])
    key = (inputs.experts, ridge)
    shares = tensor.latest("wudi", key, lambda: _shares(tensor, inputs.experts, ridge))
    return dense(shares, inputs.weights(), inputs)


def _shares(tensor: TensorStatistics, experts: tuple[str, ...], ridge: float) -> tuple[Tensor, ...]:
    """(d_i K_i + r d_i) (sum_j K_j + r I)^-1 for every expert i."""
    total = sum((_gram(matrix(tensor, e)) for e in experts[1:]), _gram(matrix(tensor, experts[0])))
    diagonal = total.diagonal(dim1=-2, dim2=-1)
    r = ridge * diagonal.mean(-1, keepdim=True)
    r = torch.where(r > 0, r, torch.ones_like(r))
    diagonal += r
    factor = torch.linalg.cholesky(total)
    shares = []
    for e in experts:
        d = matrix(tensor, e)
        target = d @ _gram(d) + r[..., None] * d
        shares.append(kept(tensor, torch.cholesky_solve(target.mT, factor).mT))
    return tuple(shares)


def _gram(d: Tensor) -> Tensor:
    """d^T d / ||d||^2: (..., in, in); zero for a delta of zeros."""
    norm = d.square().sum((-2, -1), keepdim=True)
    return d.mT @ d / torch.where(norm > 0, norm, torch.ones_like(norm))
