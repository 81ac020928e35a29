"""LM-Cocktail: a weighted average of models, by their losses on a few examples of the target task.

    y = sum_i w_i x_i,   w = softmax(-loss / temperature)

`loss` is each model's mean loss on the examples' completions, measured beforehand. Losses of one
task differ by tenths, so the published temperature of 5 is close to a uniform average. The base
model, if listed, is one of the models.
"""

import math

from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2311.13534"
BASE = "none"
EXPERTS = (1, None)
PARAMETERS = {
    "loss": Parameter(
        "the model's mean loss on examples of the target task",
        None,
        published=1.0,
        identity=1.0,
        search=(0.0, 8.0),
        per_model=True,
    ),
    "temperature": Parameter(
        "temperature T of the softmax over losses",
        default=5.0,
        published=5.0,
        identity=5.0,
        legal=(1e-3, 1e6),
        search=(0.1, 10.0),
        log=True,
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """The softmax's weights."""
    losses, temperature = inputs.numbers("loss"), float(inputs.shared["temperature"])
    parts = [math.exp((min(losses) - loss) / temperature) for loss in losses]
    pairs = zip(inputs.experts, parts, strict=True)
    return combination({e: part / sum(parts) for e, part in pairs})
