"""Model Stock: the mean of the experts, as far from the base as their deltas agree.

    y = x0 + lambda * t * mean_i d_i,   t = N c / (1 + (N - 1) c),   c = mean_{i<j} cos(d_i, d_j)

per flattened tensor, or with `filter_wise` per row; vectors are one row. The paper gives t for two
experts; the mean cosine for more is mergekit's. lambda is an addition, 1 in both.

Unlike mergekit: cosines are those of the deltas whatever their length (mergekit takes deltas whose
norms have a product below 1e-6 for nearly orthogonal, so that small norm gains and biases stay at
the base), and c is clamped to [0, 1]: experts that oppose each other give the base, where mergekit
goes to the other side of it, without bound near c = -1/(N - 1). A lone expert agrees with itself.
"""

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.methods._geometry import gram, row_gram
from evoaim.methods._shared import LAMBDA
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2403.19522"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "filter_wise": Parameter("one t for every row instead of the tensor", False, switch=True),
    "lambda": LAMBDA,
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The experts' mean delta, times t as a number or one a row."""
    experts, scale = inputs.experts, float(inputs.shared["lambda"])
    if inputs.shared["filter_wise"]:
        rows = tensor.once(("stock rows", experts), lambda: _rows(tensor, inputs))
        terms = tuple(Term(e, 1 / len(experts), factor=rows) for e in experts)
        return Mix(terms, scale=scale)
    t = tensor.once(("stock", experts), lambda: float(_ratio(gram(tensor, experts, inputs.base))))
    return Mix(tuple(Term(e, t / len(experts)) for e in experts if t), scale=scale)


def _rows(tensor: TensorStatistics, inputs: Inputs) -> Tensor:
    products = row_gram(tensor, inputs.experts, inputs.base, -1).numpy()
    return torch.from_numpy(_ratio(products)).float().to(tensor.device)


def _ratio(products: Any) -> Any:
    """t from inner products (n, n, ...)."""
    n = len(products)
    pairs = list(combinations(range(n), 2))
    if not pairs:
        return np.ones(products.shape[2:])
    c = sum(_cosine(products, i, j) for i, j in pairs) / len(pairs)
    c = np.clip(c, 0.0, 1.0)
    return n * c / (1 + (n - 1) * c)


def _cosine(products: Any, i: int, j: int) -> Any:
    norms = np.sqrt(products[i, i] * products[j, j])
    return np.divide(products[i, j], norms, out=np.zeros_like(norms), where=norms > 0)
