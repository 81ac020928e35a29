"""TIES: trim each delta to its largest entries, elect a sign per element, average what agrees.

As mergekit: trimmed per tensor, the vote is weighted, a zero sum elects +, entries that are zero
do not count in the divisor. (The paper trims globally and votes unweighted.)
"""

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs, elected
from evoaim.methods._shared import LAMBDA, density, normalize, rescale, weight
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2306.01708"
BASE = "delta"
MAX_EXPERTS = None
PARAMETERS = {
    "weight": weight(1.0),
    "density": density(0.2, 0.05),
    "lambda": LAMBDA,
    "normalize": normalize(True),
    "rescale": rescale(False),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, masked by magnitude."""
    terms = []
    for e, w in zip(inputs.experts, inputs.weights(), strict=True):
        keep = tensor.largest(e, float(inputs.own[e]["density"]))
        factor = tensor.rescale(e, keep) if inputs.shared["rescale"] else 1.0
        terms.append(Term(e, w, factor, keep))
    return elected(tuple(terms), inputs)
