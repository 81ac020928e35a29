"""Weighted average of whole models (model soup): y = sum_i w_i x_i / sum_i w_i."""

from evoaim.errors import CandidateError
from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.methods._shared import normalize, weight
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2203.05482"
BASE = "none"
EXPERTS = (1, None)
PARAMETERS = {"weight": weight(1.0), "normalize": normalize(True)}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Coefficients w_i, divided by their sum unless `normalize` is off."""
    weights = inputs.weights()
    total = sum(weights) if inputs.shared["normalize"] else 1.0
    if abs(total) < 1e-8:
        raise CandidateError(f"linear: the weights of '{tensor.name}' sum to zero")
    return combination({e: w / total for e, w in zip(inputs.experts, weights, strict=True)})
