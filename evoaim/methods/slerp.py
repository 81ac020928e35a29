"""Spherical interpolation from the base (t = 0) to one other model (t = 1), per tensor.

As mergekit: the angle is that of the flattened tensors, the coefficients apply to the raw tensors,
and above |cos| = 0.9995 (the usual case for fine-tunes of one base) it is linear.
"""

import math

from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "doi:10.1145/325165.325242"
BASE = "endpoint"
EXPERTS = (1, 1)
PARAMETERS = {
    "t": Parameter(
        "position between base (0) and expert (1)",
        None,
        published=0.5,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.0, 1.0),
    )
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Coefficients sin((1-t)a)/sin(a) and sin(ta)/sin(a), a the angle between the two tensors."""
    t, (a, b) = float(inputs.shared["t"]), (str(inputs.base), inputs.experts[0])
    norms = [math.sqrt(tensor.dot(m, m)) for m in (a, b)]
    scale = math.prod(n if n > 1e-8 else 1.0 for n in norms)
    cosine = min(max(tensor.dot(a, b) / scale, -1.0), 1.0)
    if abs(cosine) > 0.9995:
        return combination({a: 1 - t, b: t})
    angle = math.acos(cosine)
    return combination(
        {a: math.sin((1 - t) * angle) / math.sin(angle), b: math.sin(t * angle) / math.sin(angle)}
    )
