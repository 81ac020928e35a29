"""EMR-Merging's static part: of the deltas that agree with the elected sign, the largest.

    g = + where sum_i w_i d_i > 0, else -
    y = x0 + lambda * g max_i(|w_i d_i| where w_i d_i g > 0, else 0)

The paper then masks and rescales this per task at inference, which no single model can; as it
overshoots, lambda below 1 is advisable. Weights and lambda are additions: 1 in the paper.
"""

from typing import Any

from evoaim.kernel import ONE, ZERO, Mix, update, where, zero
from evoaim.methods import Inputs
from evoaim.methods._shared import own_weight, plain
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2405.17461"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": own_weight(),
    "lambda": Parameter("scale of the merged delta", 1.0, 1.0, 1.0, search=(0.1, 1.0)),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert."""
    return Mix(plain(inputs), scale=float(inputs.shared["lambda"]), update=strongest)


@update
def strongest(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """The largest of the w_i s_i whose sign is that of their sum; a sum of zero elects -."""
    vote = s[0, j] * w[0]
    for i in range(1, len(w)):
        vote = vote + s[i, j] * w[i]
    sign = where(vote > ZERO, ONE, -ONE)
    y = zero(vote)
    for i in range(len(w)):
        v = s[i, j] * w[i] * sign
        y = where(v > y, v, y)
    return y * sign
