"""Breadcrumbs with TIES' election among what is left of each delta.

    y = x0 + lambda * sum_i w_i s_i [sgn(w_i s_i) = S],   S = sgn(sum_i w_i s_i), + for 0

with `breadcrumbs`' s_i. As mergekit, the sum is not divided by the weights that agree unless
`normalize` is set.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _breadcrumbs, election
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2312.06795"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _breadcrumbs.PARAMETERS


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The election among the bands."""
    return election(_breadcrumbs.banded(tensor, inputs), inputs)
