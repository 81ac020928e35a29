"""Iso-C: the sum of the deltas with all its singular values set to their mean.

With M = sum_i w_i d_i = U S V^T, D = lambda * mean(S) * U V^T, over the rank of M (so that low-rank
experts do not raise noise). As FusionBench, everything that is no matrix gets the mean delta. A
candidate costs no decomposition unless the ratios of the weights change.
"""

from torch import Tensor

from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT, dense, is_matrix, kept, mean, ratios, weighted
from evoaim.methods._shared import LAMBDA
from evoaim.methods._spectral import thin
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2502.04959"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {"weight": WEIGHT, "lambda": LAMBDA}
PREPARES = (1.0, 0.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The flattened sum as a dense delta."""
    if not is_matrix(tensor):
        return mean(inputs)
    scale, relative = ratios(inputs.weights())

    def flat() -> Tensor:
        found = thin(weighted(tensor, inputs, relative))
        return kept(tensor, found.mean() * (found.u @ found.v.mT))

    return dense([tensor.latest("iso_c", (inputs.experts, relative), flat)], [scale], inputs)
