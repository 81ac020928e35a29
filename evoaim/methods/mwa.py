"""Metrics-weighted averaging: models weighted by a metric of each, sharpened by one power.

    y = sum_i w_i x_i,   w_i = m_i^g / sum_k m_k^g

`metric` m is any positive figure that is better when larger: accuracy, 1 / training loss, training
steps. g = 0 is the uniform average; the larger g, the more the best model counts. The paper's exact
formula is not public; this is the power form of what it describes.
"""

import math

from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2504.18580"
BASE = "none"
EXPERTS = (1, None)
PARAMETERS = {
    "metric": Parameter(
        "the model's metric m, larger is better",
        None,
        published=1.0,
        identity=1.0,
        legal=(1e-30, 1e30),
        search=(0.01, 1.0),
        per_model=True,
    ),
    "power": Parameter(
        "exponent g of the metrics",
        default=1.0,
        published=1.0,
        identity=1.0,
        legal=(0.0, 1e3),
        search=(0.0, 8.0),
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """Weights from logarithms, which no power lets overflow."""
    logs = [float(inputs.shared["power"]) * math.log(m) for m in inputs.numbers("metric")]
    parts = [math.exp(x - max(logs)) for x in logs]
    pairs = zip(inputs.experts, parts, strict=True)
    return combination({e: part / sum(parts) for e, part in pairs})
