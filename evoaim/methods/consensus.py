"""Consensus merging (TALL masks): keep the sum of deltas where several experts need it.

    v_i = w_i d_i,   t = sum_i v_i
    m_i = |v_i| > l_i |t - v_i|
    y   = x0 + lambda * t where sum_i m_i >= k, else x0

k = 1 removes only what no expert needs. With fewer than k experts, all of them must need it.
Weights are an addition: 1 in the paper, where only lambda scales.
"""

from typing import Any

from evoaim.kernel import ONE, ZERO, Mix, update, where, zero
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA, own_weight, plain
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2405.07813"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": own_weight(),
    "threshold": Parameter(
        "l: how many times the others' part of the sum an expert's own must exceed to be needed",
        default=0.4,
        published=0.4,
        legal=(0.0, 1e6),
        search=(0.1, 1.0),
        per_model=True,
    ),
    "k": Parameter(
        "how many experts must need an element",
        default=2.0,
        published=2.0,
        identity=1.0,
        legal=(0.0, 1e6),
        search=(1.0, 3.0),
        whole=True,
        experts=True,
    ),
    "lambda": LAMBDA,
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert; k and the thresholds."""
    terms = plain(inputs)
    needed = min(float(inputs.shared["k"]), float(len(terms)))
    thresholds = (float(inputs.own[t.model]["threshold"]) for t in terms)
    scale = float(inputs.shared["lambda"])
    return Mix(terms, scale=scale, update=needed_sum, scalars=(needed, *thresholds))


@update
def needed_sum(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """t = sum_i v_i, v_i = w_i s_i, where |v_i| > p_(i+1) |t - v_i| for at least p_0 of them."""
    t = s[0, j] * w[0]
    for i in range(1, len(w)):
        t = t + s[i, j] * w[i]
    votes = zero(t)
    for i in range(len(w)):
        v = s[i, j] * w[i]
        votes = votes + where(abs(v) > abs(t - v) * p[i + 1], ONE, ZERO)
    return where(votes >= p[0], t, ZERO)
