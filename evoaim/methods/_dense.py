"""What methods over whole matrices share: which tensors they take, and dense deltas as a mix.

Matrices are the weights of linear layers and of experts (each slice of a packed one); everything
else (norms, biases, embeddings, heads, convolutions) gets the mean of the weighted deltas. A fused
projection (query, key and value stored as one) is one matrix. Decompositions and solves: float64.
What is kept between candidates has the checkpoint's dtype: it is a delta, so that its rounding lies
below that of the merged weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.kernel import BASE, Mix, Term, update
from evoaim.methods import Inputs
from evoaim.methods._shared import weight
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import ALWAYS

WEIGHT = replace(weight(1.0), default=1.0)
IMPORTANCE = replace(
    WEIGHT,
    doc="weight c of the model's statistics",
    legal=(0.0, 1e9),
    search=(0.1, 10.0),
    log=True,
    relative=ALWAYS,
)


def is_matrix(tensor: TensorStatistics) -> bool:
    """Whether matrix methods apply to a tensor."""
    return tensor.kind in ("linear", "experts") and len(tensor.shape) in (2, 3)


def matrix(tensor: TensorStatistics, model: str) -> Tensor:
    """An expert's delta (..., out, in), float64, on the kernel's device."""
    return oriented(tensor, tensor.delta(model).to(tensor.device)).double()


def oriented(tensor: TensorStatistics, stored: Tensor) -> Tensor:
    """Between the checkpoint's layout and (..., out, in), in either direction."""
    return stored.mT if tensor.axis == -2 else stored


def kept(tensor: TensorStatistics, delta: Tensor) -> Tensor:
    """A delta (..., out, in) as it is kept: the checkpoint's layout and dtype."""
    return rounded(tensor, oriented(tensor, delta))


def rounded(tensor: TensorStatistics, x: Tensor) -> Tensor:
    """x in the checkpoint's dtype."""
    return x.to(tensor.load(BASE).dtype).contiguous()


@update
def combined(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """sum_i p_i a_i"""
    y = a[0, j] * p[0]
    for i in range(1, len(p)):
        y = y + a[i, j] * p[i]
    return y


def on_text(tensor: TensorStatistics, model: str, kind: str) -> Tensor:
    """A model's statistic on text for every element (*s), on the kernel's device.

    Raises:
        ConfigError: it was not measured for this tensor.
    """
    found = tensor.measured(model, kind)
    if found is None or tuple(found.shape) != tensor.shape:
        got = "nothing" if found is None else f"shape {list(found.shape)}"
        raise ConfigError(
            f"the statistics of '{model}' have {got} of kind '{kind}' for '{tensor.name}' "
            f"{list(tensor.shape)}; were they measured on another model?"
        )
    return found.to(tensor.device)


def dense(deltas: Sequence[Tensor], coefficients: Sequence[float], inputs: Inputs) -> Mix:
    """The mix for `x0 + lambda * sum_i c_i D_i` with dense D_i."""
    scale = float(inputs.shared["lambda"])
    return Mix((), 1.0, scale, combined, tuple(deltas), tuple(coefficients))


def mean(inputs: Inputs) -> Mix:
    """The mix for what is no matrix: `x0 + lambda * sum_i w_i d_i / n`."""
    pairs = zip(inputs.experts, inputs.weights(), strict=True)
    terms = tuple(Term(e, w) for e, w in pairs if w != 0.0)
    return Mix(terms, scale=float(inputs.shared["lambda"]) / len(inputs.experts))


def ratios(weights: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """Weights as a positive scale and what is left: a common scale keeps what was prepared."""
    scale = max(map(abs, weights))
    return scale, tuple(w / scale if scale else 0.0 for w in weights)


def weighted(tensor: TensorStatistics, inputs: Inputs, weights: Sequence[float]) -> Tensor:
    """sum_i w_i d_i (..., out, in), float64."""
    total = torch.zeros(tensor.shape, dtype=torch.float64, device=tensor.device)
    total = oriented(tensor, total)
    for e, w in zip(inputs.experts, weights, strict=True):
        if w != 0.0:
            total += w * matrix(tensor, e)
    return total
