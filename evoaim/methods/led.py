"""LED: keep what is important to an expert and to the base, and to no other expert.

Per tensor, expert i elects the elements that are among the top fraction r_i by |x_i g_i| and by
|x_0 g_0|, where g is a model's mean absolute gradient on text (`evoaim.data_statistics`). Elements
that several experts elect are dropped: y = x0 + lambda * sum_i w_i d_i over the elements that i
alone elects. Elements without any gradient are elected only at r_i = 1. The authors measure the
base on every expert's own text; here each model has one text.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from evoaim.kernel import BASE as BASE_MODEL
from evoaim.kernel import ONE, ZERO, Mix, Term, update, where
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT, on_text
from evoaim.methods._shared import LAMBDA
from evoaim.selection import grid_counts, grid_place, largest
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2502.16770"
BASE = "delta"
EXPERTS = (1, None)
NEEDS = ("gradient",)
BASE_NEEDS = ("gradient",)
PARAMETERS = {
    "weight": WEIGHT,
    "density": Parameter(
        "fraction r of the elements that an expert elects, by its own score and by the base's",
        0.4,
        published=0.4,
        identity=1.0,
        legal=(0.0, 1.0),
        search=(0.05, 0.8),
        per_model=True,
    ),
    "lambda": LAMBDA,
}
LEAST = float(np.finfo(np.float32).smallest_subnormal)


@update
def disjoint(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:
    """sum_i w_i s_i over what i alone elects; a: n experts' gradients, the base's, x0.

    p: the experts' thresholds, then the base's for each of them.
    """
    n = len(w)
    x0 = a[n + 1, j]
    base = abs(x0 * a[n, j])
    y = s[0, j] * ZERO
    electors = y
    for i in range(n):
        elected = (abs((x0 + s[i, j]) * a[i, j]) >= p[i]) & (base >= p[n + i])
        y = y + where(elected, s[i, j] * w[i], ZERO)
        electors = electors + where(elected, ONE, ZERO)
    return where(electors == ONE, y, ZERO)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, the gradients, and the thresholds of the scores."""
    densities = inputs.numbers("density")
    own = [_threshold(tensor, e, r) for e, r in zip(inputs.experts, densities, strict=True)]
    base = [_threshold(tensor, BASE_MODEL, r) for r in densities]
    gradients = tuple(on_text(tensor, m, "gradient") for m in (*inputs.experts, BASE_MODEL))
    terms = tuple(map(Term, inputs.experts, inputs.weights()))
    scale = float(inputs.shared["lambda"])
    return Mix(terms, scale=scale, update=disjoint, aux=gradients, scalars=(*own, *base))


def _threshold(tensor: TensorStatistics, model: str, density: float) -> float:
    """The least score that is among the top fraction; scores of 0 are not, but in all of them."""
    if density >= 1.0:
        return -1.0
    if density <= 0.0:
        return float("inf")
    count = max(1, int(density * tensor.size))
    place = grid_place(count, tensor.size)
    if place is None:
        key = ("led", model, count)
        found = tensor.recent(key, lambda: _thresholds(tensor, model, [count]))[0]
    else:
        counts = partial(grid_counts, tensor.size)
        found = tensor.once(("led", model), lambda: _thresholds(tensor, model, counts()))[place]
    return max(float(found), LEAST)


def _thresholds(tensor: TensorStatistics, model: str, counts: list[int]) -> Any:
    gradient = on_text(tensor, model, "gradient").cpu().reshape(-1)

    def scores(start: int, stop: int) -> Any:
        x = tensor.load(BASE_MODEL).reshape(-1)[start:stop].float()
        if model != BASE_MODEL:
            x = x + tensor.chunk(model, start, stop)
        product: Tensor = x * gradient[start:stop].float()
        return product.abs().numpy()

    return largest(scores, tensor.size, counts).thresholds
