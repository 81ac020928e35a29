"""SCE: select the elements in which experts differ most, weigh experts by their size there, elect.

    M   = the int(select_topk n) elements of largest variance over the experts, n those above zero
    v_i = w_i d_i                     in the mode `masked`: only where M, else 0
    c_i = mean((M v_i)^2) / sum_j mean((M v_j)^2);  1/N each if that sum is below `floor`
    S   = + where sum_i v_i >= 0, else -
    y   = x0 + lambda * sum_i c_i v_i [sgn(v_i) = S] / sum_i c_i [sgn(v_i) = S]

As mergekit: elements outside of M stay at the base, `floor` is 1e-6, no divisor is below 1e-6, and
a lone expert, from which nothing differs, gives the base if select_topk is below 1. Fine-tunes of
language models mostly lie below that floor, so that all experts weigh the same: searches set it to
0. The official code is `mode: official`, where M only shapes the weights, with floor 0. Weights and
lambda are additions: 1 in both; mergekit ignores a weight that is given.
"""

from typing import Any

import torch
from torch import Tensor

from evoaim.kernel import ONE, ZERO, Mix, Term, part, update, where, zero
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA, own_weight
from evoaim.methods._variance import selection
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2408.07990"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": own_weight(),
    "select_topk": Parameter(
        "fraction of the differing elements that are selected, those of largest variance",
        default=1.0,
        published=0.1,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.01, 1.0),
        log=True,
    ),
    "mode": Parameter(
        "what the selection does: masked, also zeroes the other elements (mergekit), or official, "
        "only shapes the weights",
        default="masked",
        published="official",
        identity="masked",
        choices=("masked", "official"),
    ),
    "floor": Parameter(
        "sum of mean squares below which all experts weigh the same",
        default=1e-6,
        published=0.0,
        legal=(0.0, 1e6),
    ),
    "lambda": LAMBDA,
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert with its weight in the selection."""
    gains, topk = inputs.weights(), float(inputs.shared["select_topk"])
    masked, scale = inputs.shared["mode"] == "masked", float(inputs.shared["lambda"])
    found = selection(tensor, inputs.experts, topk) if 0.0 < topk < 1.0 else None
    if topk < 1.0 and found is None and masked:
        return Mix(())
    if found is not None:
        squares = [float(x) for x in found[2]]
    else:
        squares = [tensor.delta_dot(e, e) if topk >= 1.0 else 0.0 for e in inputs.experts]
    means = [g * g * x / tensor.size for g, x in zip(gains, squares, strict=True)]
    total = sum(means)
    even = total <= 0.0 or total < float(inputs.shared["floor"])
    shares = [1 / len(means) if even else x / total for x in means]
    terms = tuple(Term(e, c) for e, c in zip(inputs.experts, shares, strict=True))
    least = 1e-6 if masked else 1e-30
    if found is None or not masked:
        return Mix(terms, scale=scale, update=agreed, scalars=(least, *gains))
    columns = tensor.shape[-1] if tensor.shape else 1
    row, column = divmod(found[1], columns)
    scalars = (least, *gains, found[0], float(row), float(column))
    places = tensor.once("places", lambda: _places(tensor))
    return Mix(terms, scale=scale, update=agreed_in_selection, aux=places, scalars=scalars)


def _places(tensor: TensorStatistics) -> tuple[Tensor, Tensor]:
    """Row and column of every element, broadcastable to the tensor: float32."""
    columns = tensor.shape[-1] if tensor.shape else 1
    rows = torch.arange(tensor.size // columns, dtype=torch.float32, device=tensor.device)
    across = torch.arange(columns, dtype=torch.float32, device=tensor.device)
    return rows.view(*tensor.shape[:-1], 1), across


@part
def _agreed(s: Any, w: Any, p: Any, j: Any) -> Any:
    """Mean of the v_i = p_(i+1) s_i whose sign is that of their sum, weighted; divisor >= p_0."""
    vote = s[0, j] * p[1]
    for i in range(1, len(w)):
        vote = vote + s[i, j] * p[i + 1]
    sign = where(vote >= ZERO, ONE, -ONE)
    y, weight = zero(vote), zero(vote)
    for i in range(len(w)):
        v = s[i, j] * p[i + 1]
        y = y + where(v * sign > ZERO, v * w[i], ZERO)
        weight = weight + where(v * sign > ZERO, w[i], ZERO)
    divisor = where(weight < p[0], p[0], weight)
    return y / where(divisor == ZERO, ONE, divisor)


@update
def agreed(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """See `_agreed`."""
    return _agreed(s, w, p, j)


@update
def agreed_in_selection(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:
    """`_agreed` in the selection, else 0; a: row, column; p ends in threshold, last row, column."""
    n = len(w)
    spread = zero(s[0, j])
    for i in range(1, n):
        for k in range(i):
            d = s[i, j] - s[k, j]
            spread = spread + d * d
    limit, row, column = p[n + 1], p[n + 2], p[n + 3]
    before = (a[0, j] < row) | ((a[0, j] == row) & (a[1, j] <= column))
    selected = (spread > limit) | ((spread == limit) & before)
    return where(selected, _agreed(s, w, p, j), ZERO)
