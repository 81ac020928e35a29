"""RegMean: the matrix whose outputs are nearest to every model's, on that model's inputs.

With G_i = X_i^T X_i / tokens over model i's inputs on text (`evoaim.data_statistics`), off-diagonal
elements multiplied by a, and c_i the models' weights, a linear layer becomes

    W^T = (sum_i c_i G_i)^-1 sum_i c_i G_i W_i^T.

To every G_i the same multiple of I is added, which pulls towards the weighted mean (the authors
invert without one, which fails with fewer tokens than channels). Layers whose Gram matrix is too
large to keep have its diagonal; whatever has none gets the weighted mean. A candidate costs a solve
unless only AIM changes.
"""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from evoaim.errors import CandidateError
from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.methods._dense import IMPORTANCE, combined, is_matrix, kept, matrix, ratios
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2212.09849"
BASE = "none"
EXPERTS = (1, None)
NEEDS = ("gram",)
PARAMETERS = {
    "weight": IMPORTANCE,
    "off_diagonal": Parameter(
        "factor a of the Gram matrices' off-diagonal elements",
        default=0.9,
        published=0.9,
        legal=(0.0, 1.0),
        search=(0.0, 1.0),
    ),
    "ridge": Parameter(
        "multiple of I added to every Gram matrix, over their mean diagonal",
        default=1e-3,
        published=1e-3,
        legal=(1e-9, 1e9),
        search=(1e-6, 1e-2),
        log=True,
    ),
}
PREPARES = (1.0, 0.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The solution, as a dense delta."""
    weights = inputs.weights()
    total = sum(weights)
    if total <= 0.0:
        raise CandidateError(f"regmean: the weights of '{tensor.name}' sum to zero")
    grams = [tensor.measured(e, "gram") for e in inputs.experts] if is_matrix(tensor) else [None]
    if len(inputs.experts) == 1 or any(g is None for g in grams):
        return combination({e: w / total for e, w in zip(inputs.experts, weights, strict=True)})
    relative = ratios(weights)[1]
    a, ridge = float(inputs.shared["off_diagonal"]), float(inputs.shared["ridge"])
    key = (inputs.experts, relative, a, ridge)
    solution = tensor.latest(
        "regmean", key, lambda: _solved(tensor, inputs.experts, relative, (a, ridge))
    )
    return Mix((), update=combined, aux=(solution,), scalars=(1.0,))


def _solved(
    tensor: TensorStatistics,
    models: tuple[str, ...],
    weights: tuple[float, ...],
    shape: tuple[float, float],
) -> Tensor:
    """The merged delta."""
    found = [tensor.measured(m, "gram") for m in models]
    grams = [g.to(tensor.device, torch.float64, copy=True) for g in found if g is not None]
    a, ridge = shape
    r = ridge * sum(float(_diagonal(g).mean()) for g in grams) / len(grams) or 1.0
    if grams[0].dim() == 1 or a == 0.0:
        shares = torch.stack([w * (_diagonal(g) + r) for w, g in zip(weights, grams, strict=True)])
        shares /= shares.sum(0)
        return kept(
            tensor, _sum(c * matrix(tensor, m) for c, m in zip(shares, models, strict=True))
        )
    for g in grams:
        g.diagonal().mul_(1 / a).add_(r / a)
    left = _sum(w * a * g for w, g in zip(weights, grams, strict=True))
    right = _sum(
        w * a * (g @ matrix(tensor, m).mT) for w, g, m in zip(weights, grams, models, strict=True)
    )
    return kept(tensor, torch.cholesky_solve(right, torch.linalg.cholesky(left)).mT)


def _sum(parts: Iterator[Tensor]) -> Tensor:
    return reduce(Tensor.add_, parts)


def _diagonal(gram: Tensor) -> Tensor:
    return gram if gram.dim() == 1 else gram.diagonal()
