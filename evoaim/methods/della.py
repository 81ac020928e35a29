"""DELLA: drop delta elements at random, large ones rarely; rescale; then TIES' election.

    r_k = rank of |d_k| within its row, in [0, 1];  p_k = density - h + 2 h r_k
    s_k = d_k where u_k < p_k, else 0, times sum |d| / sum |kept d|
    y   = x0 + lambda * sum_i w_i s_i [sgn(w_i s_i) = S] / sum_i w_i [sgn(w_i s_i) = S]

with S the sign of sum_i w_i s_i, + for 0, and the half-width h = epsilon + spread * min(density,
1 - density). The coin u is a hash, see `dare_linear`; ranks are kept in 255ths.

As mergekit: the rescaling restores the tensor's L1 norm (above 65536 elements in expectation over
the coins); a probability outside (0, 1) is refused. The paper divides each kept element by its own
p_k, `rescale_by: probability`, and its `window_size` is 2 h. Unlike mergekit: a row of one element,
which fails there, is kept with probability `density`.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, _della, election
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2406.11617"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = _della.parameters(normalized=True)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The election among what the coins leave."""
    return election(_della.dropped(tensor, inputs), inputs)
