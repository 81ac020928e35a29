"""Arcee Fusion: take from the other model the elements whose change matters most, wholly.

    imp = |x_1 - x_b| * KL(softmax(x_1) || softmax(x_b))   softmax and KL along the last axis
    y   = x_1 where imp >= median + k (q3 - q1), else x_b   quartiles of imp over the tensor

As mergekit, with k = 1.5 there: quartiles are elements, at floor(q (n - 1)) in order, 1e-8 is added
to the probabilities; where the threshold is 0 everything is taken. Any model may be the base.

Unlike mergekit: quartiles are those of all elements also above 1e6 of them, where mergekit draws a
sample, so that nothing is random; and the divergences, which are tiny, are computed in float64.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoaim.kernel import BASE as X0
from evoaim.kernel import ZERO, Mix, update, where
from evoaim.methods import Inputs
from evoaim.methods._geometry import ends, start, way
from evoaim.selection import largest
from evoaim.statistics import CHUNK, TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "https://arcee.ai"
BASE = "endpoint"
EXPERTS = (1, 1)
PARAMETERS = {
    "threshold": Parameter(
        "interquartile ranges k above the median from which on elements are taken",
        default=1.5,
        published=1.5,
        legal=(0.0, 1e6),
        search=(0.0, 5.0),
    )
}
EPS = 1e-8  # added to probabilities


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Both models, the rows' divergences, and the threshold."""
    model, base = inputs.experts[0], str(inputs.base)
    rows, q1, median, q3 = tensor.once(
        ("arcee fusion", model, base), lambda: _prepared(tensor, model, base)
    )
    return Mix(
        ends(model, base),
        update=fused,
        aux=(rows,),
        scalars=(median + float(inputs.shared["threshold"]) * (q3 - q1),),
    )


@update
def fused(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:
    """The start of the way d from one end to the other, and d where |d| a_0 >= p_0."""
    d = way(s, w, j)
    return start(s, w, j) + where(abs(d) * a[0, j] >= p[0], d, ZERO)


def _difference(tensor: TensorStatistics, model: str, base: str, at: tuple[int, int]) -> Tensor:
    """As the kernel computes it: float32."""
    d = tensor.chunk(model, *at)
    return d if base == X0 else d - tensor.chunk(base, *at)


def _divergence(tensor: TensorStatistics, model: str, base: str) -> Tensor:
    """KL of every vector along the last axis: (*s[:-1], 1) float32."""
    columns = tensor.shape[-1] if tensor.shape else 1
    found = []
    step = max(1, CHUNK // max(columns, 1)) * columns
    for first in range(0, tensor.size, step):
        at = (first, min(first + step, tensor.size))
        x = tensor.load(X0).reshape(-1)[slice(*at)].double().view(-1, columns)
        x = x if base == X0 else x + tensor.chunk(base, *at).view(-1, columns)
        d = _difference(tensor, model, base, at).view(-1, columns)
        p, q = (torch.softmax(y, -1) + EPS for y in (x + d, x))
        found.append((p * (p / q).log()).sum(-1).clamp(min=0.0))
    return torch.cat(found).float().view(*tensor.shape[:-1], 1)


def _prepared(
    tensor: TensorStatistics, model: str, base: str
) -> tuple[Tensor, float, float, float]:
    """The rows' divergences, and the quartiles of importance."""
    n, columns = tensor.size, tensor.shape[-1] if tensor.shape else 1
    rows = _divergence(tensor, model, base)
    flat = rows.reshape(-1)

    def importance(start: int, stop: int) -> Any:
        d = _difference(tensor, model, base, (start, stop))
        return (d.abs() * flat[torch.arange(start, stop) // columns]).numpy()

    counts = [n - int(np.float32(q) * (n - 1)) for q in (0.25, 0.5, 0.75)]
    q1, median, q3 = (found.keep.threshold for found in largest(importance, n, counts))
    return rows.to(tensor.device), q1, median, q3
