"""Barycentre of models on a sphere: their weighted mean direction, at their weighted mean norm.

    M = sum_i w_i v_i / |v_i|,   y = (sum_i w_i |v_i|) M / |M|  [+ base],   v_i = x_i [- base]

per flattened tensor, the weights divided by their sum unless `normalize_weights` is off. This is
what mergekit's steps amount to: its tangent vectors, taken at the mean itself, cancel in the sum.

Unlike mergekit: models that all equal the base (frozen tensors) give the base instead of an error;
where the directions cancel (|M| below `eps`), the result is sum_i w_i v_i for any number of
models, not for two only; a lone model is no exception to the formula, so that its weight counts if
weights are not normalised; weights that sum to zero are an error instead of inf.
"""

import math
from dataclasses import replace

from evoaim.errors import CandidateError
from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._geometry import NO_ANGLE, directions, placed
from evoaim.methods._shared import weight
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
BASE = "optional"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": replace(weight(1.0), relative="normalize_weights"),
    "normalize_weights": Parameter("divide the weights by their sum", default=True, switch=True),
    "eps": Parameter(
        "length of the mean direction below which directions count as cancelling",
        default=1e-8,
        legal=(0.0, 1.0),
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Coefficients (sum_k w_k |v_k|) / |M| * w_i / |v_i|."""
    w = inputs.weights()
    if inputs.shared["normalize_weights"]:
        total = sum(w)
        if abs(total) < 1e-8:
            raise CandidateError(f"multislerp: the weights of '{tensor.name}' sum to zero")
        w = [wi / total for wi in w]
    norms, cosines = directions(tensor, inputs.experts, inputs.base)
    square = sum(
        a * b * c for a, row in zip(w, cosines, strict=True) for b, c in zip(w, row, strict=True)
    )
    length = math.sqrt(max(square, 0.0))
    # inner products leave no digits of a sum that is this much shorter than its parts
    if length > max(float(inputs.shared["eps"]), NO_ANGLE * sum(map(abs, w))):
        scale = sum(a * n for a, n in zip(w, norms, strict=True)) / length
        w = [scale * a / n if n > 0 else 0.0 for a, n in zip(w, norms, strict=True)]
    return placed(dict(zip(inputs.experts, w, strict=True)), inputs.base)
