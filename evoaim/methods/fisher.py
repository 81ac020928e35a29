"""Fisher merging: an average in which every element weighs as much as its Fisher information.

y = sum_i c_i F_i x_i / sum_i c_i F_i, F_i the diagonal: the mean squared gradient of model i's loss
on text (`evoaim.data_statistics`). To every F_i a floor is added, as in FusionBench, but as a
fraction of the tensor's mean F: where no model has information this is the weighted mean.
"""

from functools import partial
from typing import Any

import torch

from evoaim.errors import CandidateError
from evoaim.kernel import BASE as BASE_MODEL
from evoaim.kernel import ONE, ZERO, Mix, Term, update, where
from evoaim.methods import Inputs
from evoaim.methods._dense import IMPORTANCE, on_text
from evoaim.methods._shared import normalize
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2111.09832"
BASE = "none"
EXPERTS = (1, None)
NEEDS = ("fisher",)
PARAMETERS = {
    "weight": IMPORTANCE,
    "floor": Parameter(
        "added to every element's Fisher information, over the tensor's mean",
        default=1e-6,
        published=1e-6,
        legal=(1e-9, 1e9),
        search=(1e-6, 1.0),
        log=True,
    ),
    "normalize": normalize(False),
}


@update
def informed(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:
    """sum_i w_i (a_i + p_i) s_i / (sum_i w_i (a_i + p_i) + p_n (a_n + p_n+1)), n terms.

    The last is the base's share, if it is one of the models; else a_n is x0, and p_n is 0.
    """
    n = len(w)
    weight = (a[n, j] + p[n + 1]) * p[n]
    y = s[0, j] * ZERO
    for i in range(n):
        f = (a[i, j] + p[i]) * w[i]
        y = y + s[i, j] * f
        weight = weight + f
    return y / where(weight == ZERO, ONE, weight)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term a model, and the Fisher information of all of them."""
    models = [e for e in inputs.experts if e != BASE_MODEL]
    listed = [*models, *(e for e in inputs.experts if e == BASE_MODEL)]
    if not models:
        return Mix(())
    found = {m: on_text(tensor, m, "fisher") for m in listed}
    means = {m: tensor.once(("fisher", m), partial(_mean, f)) for m, f in found.items()}
    scales = {m: _scale(tensor, m) if inputs.shared["normalize"] else 1.0 for m in listed}
    floor = float(inputs.shared["floor"])
    floor *= sum(means[m] * scales[m] for m in listed) / len(listed) or 1.0
    weights = {m: float(inputs.own[m]["weight"]) * scales[m] for m in listed}
    if sum(weights.values()) <= 0.0:
        raise CandidateError(f"fisher: the weights of '{tensor.name}' sum to zero")
    top = max(weights.values())  # float32 would lose very small numbers
    terms = tuple(Term(m, weights[m] / top) for m in models)
    floors = [floor / scales[m] for m in listed]
    extra = [weights[BASE_MODEL] / top, floors.pop()] if BASE_MODEL in listed else [0.0, 0.0]
    return Mix(terms, update=informed, aux=tuple(found.values()), scalars=(*floors, *extra))


def _mean(fisher: torch.Tensor) -> float:
    return float(fisher.sum(dtype=torch.float64)) / max(fisher.numel(), 1)


def _scale(tensor: TensorStatistics, model: str) -> float:
    """1 over the model's mean Fisher information over all tensors."""

    def compute() -> float:
        tensors = tensor.whole.tensors().values()
        total = sum(_mean(on_text(t, model, "fisher")) * t.size for t in tensors)
        return sum(t.size for t in tensors) / total if total else 1.0

    return tensor.whole.once(("fisher", model), compute)
