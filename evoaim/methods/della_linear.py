"""DELLA without an election: y = x0 + lambda * sum_i w_i s_i [/ sum_i w_i], with `della`'s s_i."""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _della, weighted_sum
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2406.11617"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _della.parameters(normalized=False)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The sum of what the coins leave."""
    return weighted_sum(_della.dropped(tensor, inputs), inputs)
