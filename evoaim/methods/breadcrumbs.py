"""Breadcrumbs: add what is left of each delta without its smallest and its very largest elements.

    s_i = d_i without its int(gamma n) largest, of the rest the int(density n) largest, else 0
    y   = x0 + lambda * sum_i w_i s_i [/ sum_i w_i]

As mergekit: n counts the elements of the tensor, gamma gives way where density + gamma exceeds 1,
and at density 1 everything is kept. The paper takes n per row: `scope: row`, which sorts rows
anew for every density and gamma and is the slower one.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _breadcrumbs, weighted_sum
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2312.06795"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _breadcrumbs.PARAMETERS


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The sum of the bands."""
    return weighted_sum(_breadcrumbs.banded(tensor, inputs), inputs)
