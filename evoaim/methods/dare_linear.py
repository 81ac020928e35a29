"""DARE: drop delta elements at random, rescale the rest, and add them: task arithmetic of those.

    s_i = d_i where u_i < density, else 0, times sum |d_i| / sum |kept d_i|
    y   = x0 + lambda * sum_i w_i s_i [/ sum_i w_i]

The coin u of every element is a hash of (seed, expert, tensor, index): the same on every device,
the same for all candidates of a search, and nested in density. As mergekit, the rescaling restores
the L1 norm; the paper's factor 1 / density is `rescale_by: probability`.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _dare, weighted_sum
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2311.03099"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _dare.PARAMETERS


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The sum of what the coins leave."""
    return weighted_sum(_dare.dropped(tensor, inputs), inputs)
