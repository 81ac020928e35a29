"""ExPO: go on along the way from the base to the mean of the experts.

    y = x0 + (1 + alpha) * mean_i d_i

alpha 0 is the mean. The paper has one expert, aligned from an SFT model as the base.
"""

from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2404.16792"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "alpha": Parameter(
        "how far beyond the mean, in its distances from the base",
        default=0.5,
        published=0.5,
        identity=0.0,
        legal=(-1.0, 10.0),
        search=(0.0, 1.0),
    )
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert."""
    share = (1.0 + float(inputs.shared["alpha"])) / len(inputs.experts)
    return Mix(tuple(Term(e, share) for e in inputs.experts))
