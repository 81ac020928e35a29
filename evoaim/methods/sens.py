"""Sens-Merging: per layer, more of the experts that are sensitive there and unlike the others.

In layer l expert i weighs k_i = N * softmax_i(a_i tau_i / T), and y = x0 + lambda * sum_i k_i d_i.
Both come from text (`evoaim.data_statistics`): a_i is the layer's sum |w g|, scaled to norm 1 over
the layers; tau_i how far the expert's log-likelihoods of the text's tokens lie from the other
experts', scaled to sum 1 over the experts. Outside the layers all experts weigh 1.

A re-implementation: the authors published no code, and a description by others was followed, which
compares logits on every expert's own text; here it is one text's likelihoods. Use it as a starting
point for weights.
"""

import math
from dataclasses import replace

from torch import Tensor

from evoaim.errors import ConfigError
from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2502.12420"
BASE = "delta"
EXPERTS = (1, None)
NEEDS = ("sensitivity", "likelihood")
PARAMETERS = {
    "temperature": Parameter(
        "temperature T of the softmax over the experts",
        default=2.0,
        published=2.0,
        legal=(1e-3, 1e6),
        search=(0.5, 10.0),
        log=True,
    ),
    "lambda": replace(LAMBDA, default=0.4, published=0.4),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, weighted by its layer's coefficient."""
    n, t = len(inputs.experts), float(inputs.shared["temperature"])
    found = [tensor.measured(e, "sensitivity") for e in inputs.experts]
    weights = [1.0] * n
    if all(a is not None for a in found):
        pairs = zip(found, _differences(tensor, inputs.experts), strict=True)
        logits = [float(a) * tau / t for a, tau in pairs if a is not None]
        exponentials = [math.exp(x - max(logits)) for x in logits]
        weights = [n * x / sum(exponentials) for x in exponentials]
    return Mix(tuple(map(Term, inputs.experts, weights)), scale=float(inputs.shared["lambda"]))


def _differences(tensor: TensorStatistics, experts: tuple[str, ...]) -> list[float]:
    """tau_i of every expert."""

    def compute() -> list[float]:
        found = [_likelihood(tensor, e) for e in experts]
        if len({x.shape for x in found}) > 1:
            raise ConfigError("sens: the experts' statistics were measured on different texts")
        sums = [sum(float((x - other).abs().mean()) for other in found) for x in found]
        total = sum(sums)
        return [s / total if total else 1 / len(sums) for s in sums]

    return tensor.whole.once(("sens", experts), compute)


def _likelihood(tensor: TensorStatistics, expert: str) -> Tensor:
    found = tensor.measured(expert, "likelihood")
    if found is None:
        raise ConfigError(f"the statistics of '{expert}' have no likelihood of '{tensor.name}'")
    return found.double()
