"""TIES: trim each delta to its largest entries, elect a sign per element, average what agrees.

    s_i = the int(density * n) largest |d_i|, else 0
    S   = + where sum_i w_i s_i >= 0, else -
    y   = x0 + lambda * sum_i w_i s_i [sgn(s_i) = S] / sum_i w_i [sgn(s_i) = S]

As mergekit: n counts the elements of the tensor, the vote is weighted, a zero sum elects +, entries
that are zero do not count in the divisor, exactly the asked-for number is kept.

The paper trims over the whole model (`scope: model`) and lets the trimmed deltas vote unweighted
(`vote: unweighted`); where they cancel it elects the sign that most elements of the model have.
"""

from typing import Any

from evoaim.kernel import ONE, ZERO, Mix, Term, update, where, zero
from evoaim.methods import Inputs, election
from evoaim.methods._shared import LAMBDA, density, normalize, rescale, weight
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2306.01708"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": weight(1.0),
    "density": density(0.2, 0.05),
    "lambda": LAMBDA,
    "normalize": normalize(True),
    "rescale": rescale(False),
    "scope": Parameter(
        "among what the largest are sought: tensor (mergekit) or model (the paper)",
        default="tensor",
        published="model",
        identity="tensor",
        choices=("tensor", "model"),
    ),
    "vote": Parameter(
        "whether deltas elect the sign weighted (mergekit) or unweighted (the paper)",
        default="weighted",
        published="unweighted",
        identity="weighted",
        choices=("weighted", "unweighted"),
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, masked by magnitude."""
    terms = []
    for e, w in zip(inputs.experts, inputs.weights(), strict=True):
        kept = float(inputs.own[e]["density"])
        if inputs.shared["scope"] == "model":
            keep = tensor.whole.largest(e, kept, tensor.name)
        else:
            keep = tensor.largest(e, kept)
        factor = tensor.rescale(e, keep) if inputs.shared["rescale"] else 1.0
        terms.append(Term(e, w, factor, keep))
    if inputs.shared["vote"] == "weighted":
        return election(terms, inputs)
    rule = agreeing_mean if inputs.shared["normalize"] else agreeing
    scale = float(inputs.shared["lambda"])
    return Mix(tuple(terms), scale=scale, update=rule)  # who weighs nothing votes all the same


@update
def agreeing(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """Sum of the w_i s_i for those s_i whose sign is that of the sum of all s_i."""
    vote = s[0, j]
    for i in range(1, len(w)):
        vote = vote + s[i, j]
    sign = where(vote >= ZERO, ONE, -ONE)
    y = zero(vote)
    for i in range(len(w)):
        y = y + where(s[i, j] * sign > ZERO, s[i, j] * w[i], ZERO)
    return y


@update
def agreeing_mean(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """`agreeing`, divided by the sum of the weights that agree."""
    vote = s[0, j]
    for i in range(1, len(w)):
        vote = vote + s[i, j]
    sign = where(vote >= ZERO, ONE, -ONE)
    y, weight = zero(vote), zero(vote)
    for i in range(len(w)):
        y = y + where(s[i, j] * sign > ZERO, s[i, j] * w[i], ZERO)
        weight = weight + where(s[i, j] * sign > ZERO, w[i], ZERO)
    return y / where(weight == ZERO, ONE, weight)
