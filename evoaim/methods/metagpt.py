"""MetaGPT: task arithmetic whose weights follow from how far each expert moved, in closed form.

    y = x0 + lambda * sum_i w_i d_i,   w_i = |d_i|^2 / sum_j |d_j|^2

with norms over the whole model, so that the weights are the same for all tensors; lambda is an
addition, 1 in the paper. Experts that all equal the base give the base.
"""

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2406.11385"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {"lambda": LAMBDA}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert that moved."""
    moved = {e: tensor.whole.delta_dot(e, e) for e in inputs.experts}
    total = sum(moved.values())
    terms = tuple(Term(e, square / total) for e, square in moved.items() if square > 0.0)
    return Mix(terms, scale=float(inputs.shared["lambda"]))
