"""DARE's random drop, for both ways to combine what it leaves."""

from evoaim.kernel import Term
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA, RESCALE_BY, density, normalize, rescale, weight
from evoaim.statistics import TensorStatistics

PARAMETERS = {
    "weight": weight(0.5),
    "density": density(0.5, 0.05),
    "lambda": LAMBDA,
    "normalize": normalize(False),
    "rescale": rescale(True),
    "rescale_by": RESCALE_BY,
}


def dropped(tensor: TensorStatistics, inputs: Inputs) -> list[Term]:
    """One term an expert, masked by hashed coins."""
    terms = []
    for e, w in zip(inputs.experts, inputs.weights(), strict=True):
        kept = float(inputs.own[e]["density"])
        keep, factor = tensor.coin(e, kept, inputs.seed), 1.0
        if inputs.shared["rescale"] and inputs.shared["rescale_by"] == "l1":
            factor = tensor.rescale(e, keep)
        elif inputs.shared["rescale"] and kept > 0.0:
            factor = 1 / kept
        terms.append(Term(e, w, factor, keep))
    return terms
