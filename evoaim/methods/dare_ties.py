"""DARE with TIES' election: drop delta elements at random, rescale the rest, elect a sign.

The coin of every element is a hash of (seed, expert, tensor, index): the same on every device, the
same for all candidates of a search, and nested in density. As mergekit, the rescaling restores the
L1 norm (the paper divides by the density) and nothing is trimmed by magnitude.
"""

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs, elected
from evoaim.methods._shared import LAMBDA, density, normalize, rescale, weight
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2311.03099"
BASE = "delta"
MAX_EXPERTS = None
PARAMETERS = {
    "weight": weight(0.5),
    "density": density(0.5, 0.05),
    "lambda": LAMBDA,
    "normalize": normalize(False),
    "rescale": rescale(True),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, masked by hashed coins."""
    terms = []
    for e, w in zip(inputs.experts, inputs.weights(), strict=True):
        keep = tensor.coin(e, float(inputs.own[e]["density"]), inputs.seed)
        factor = tensor.rescale(e, keep) if inputs.shared["rescale"] else 1.0
        terms.append(Term(e, w, factor, keep))
    return elected(tuple(terms), inputs)
