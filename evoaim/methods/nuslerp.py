"""Spherical interpolation of two models, or of their deltas to a base, by their weights.

    t = w_2 / (w_1 + w_2)  (1/2 if the weights cancel),   theta = angle(v_1, v_2),
    y = sin((1-t) theta)/sin(theta) v_1 + sin(t theta)/sin(theta) v_2  [+ base]

with v_i = x_i, or x_i - base if there is a base model. As mergekit: the vectors are the flattened
tensors, or without `nuslerp_flatten` the rows W[i, :] (the last axis), or with `nuslerp_row_wise`,
in spite of its name, the columns W[:, j] (the first axis); coefficients apply to the vectors as
they are, so a vector of norm 0, which has no direction, is taken at a right angle to the other.

Unlike mergekit the angle comes from inner products in float64, and near-opposite vectors, for which
the formula divides by a vanishing sine, are interpolated linearly, not only exactly opposite ones.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._geometry import arc, arc_rows, directions, placed, placed_rows, row_gram
from evoaim.methods._shared import weight
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import ALWAYS, Parameter

PAPER = "doi:10.1145/325165.325242"
BASE = "optional"
EXPERTS = (2, 2)
PARAMETERS = {
    "weight": replace(weight(0.5), relative=ALWAYS),
    "nuslerp_flatten": Parameter(
        "one angle for the whole tensor instead of one a row or column", default=True, switch=True
    ),
    "nuslerp_row_wise": Parameter(
        "without nuslerp_flatten: one angle for every column W[:, j] instead of every row",
        default=False,
        switch=True,
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Slerp's coefficients, as numbers or one a row or column."""
    first, second = inputs.weights()
    total = first + second
    t = second / total if abs(total) >= 1e-6 else 0.5
    pair, base = inputs.experts, inputs.base
    if inputs.shared["nuslerp_flatten"]:
        angle = tensor.once(("angle", pair, base), lambda: _angle(tensor, pair, base))
        return placed(dict(zip(pair, arc(t, angle), strict=True)), base)
    axis = 0 if inputs.shared["nuslerp_row_wise"] else -1
    angles = tensor.once(
        ("angles", pair, base, axis),
        lambda: _angles(row_gram(tensor, pair, base, axis)).to(tensor.device),
    )
    return placed_rows(dict(zip(pair, arc_rows(t, angles), strict=True)), base)


def _angle(tensor: TensorStatistics, pair: tuple[str, ...], base: str | None) -> float:
    return math.acos(directions(tensor, pair, base)[1][0][1])


def _angles(products: Tensor) -> Tensor:
    norms = (products[0, 0] * products[1, 1]).clamp(min=0).sqrt()
    cosine = torch.where(norms > 0, products[0, 1] / norms.where(norms > 0, 1.0), 0.0)
    return cosine.clamp(-1, 1).acos()
