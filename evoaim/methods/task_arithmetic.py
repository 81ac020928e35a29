"""Task arithmetic: add weighted deltas to the base, y = x0 + lambda * sum_i w_i d_i."""

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs, weighted_sum
from evoaim.methods._shared import LAMBDA, normalize, weight
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2212.04089"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {"weight": weight(0.4), "lambda": LAMBDA, "normalize": normalize(False)}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert."""
    pairs = zip(inputs.experts, inputs.weights(), strict=True)
    return weighted_sum([Term(e, w) for e, w in pairs], inputs)
