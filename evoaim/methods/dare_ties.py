"""DARE with TIES' election: drop delta elements at random, rescale the rest, elect a sign.

    y = x0 + lambda * sum_i w_i s_i [sgn(w_i s_i) = S],   S = sgn(sum_i w_i s_i), + for 0

with DARE's s_i, see `dare_linear`. As mergekit, nothing is trimmed by magnitude and the sum is not
divided by the weights that agree unless `normalize` is set.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _dare, election
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2311.03099"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _dare.PARAMETERS


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The election among what the coins leave."""
    return election(_dare.dropped(tensor, inputs), inputs)
