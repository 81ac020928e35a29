"""MagMax: of all deltas the one that is largest, element by element; the later of equal ones.

    y = x0 + lambda * w_m d_m,   m = argmax_i |w_i d_i|

Weights are an addition: 1 in the paper.
"""

from typing import Any

from evoaim.kernel import Mix, update, where
from evoaim.methods import Inputs
from evoaim.methods._shared import own_weight, plain
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2407.06322"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": own_weight(),
    "lambda": Parameter("scale of the merged delta", 0.5, 0.5, 1.0, search=(0.2, 1.0)),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert."""
    return Mix(plain(inputs), scale=float(inputs.shared["lambda"]), update=largest)


@update
def largest(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """The w_i s_i of the largest magnitude."""
    y = s[0, j] * w[0]
    for i in range(1, len(w)):
        v = s[i, j] * w[i]
        y = where(abs(v) >= abs(y), v, y)
    return y
