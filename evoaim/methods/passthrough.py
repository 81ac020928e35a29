"""Passthrough: one model's tensors as they are, times `scale`; stacks of slices are made with it.

A scale of 0 on the tensors that write to the residual stream (o_proj, down_proj) switches a layer's
branch off.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2403.13257"  # mergekit
BASE = "none"
EXPERTS = (1, 1)
PARAMETERS = {
    "scale": Parameter(
        "factor of the tensor",
        default=1.0,
        published=1.0,
        identity=1.0,
        search=(0.0, 2.0),
        per_model=True,
    )
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """The model, scaled."""
    return combination(dict(zip(inputs.experts, inputs.numbers("scale"), strict=True)))
