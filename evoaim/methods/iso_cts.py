"""Iso-CTS: a common space of all experts and one of each, with equal singular values.

Of the R = min(out, in) directions, about a fraction f is the top of the summed delta M; the others
are, in equal parts, the top directions of each expert's delta without the common left space. All
of them are made orthonormal, and their singular values set to the mean. As the authors, the number
of the experts' directions is (1 - f) R rounded to a multiple of the experts, f R rounded down.
"""

import torch
from torch import Tensor

from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT, dense, is_matrix, kept, matrix, mean, ratios, weighted
from evoaim.methods._shared import LAMBDA
from evoaim.methods._spectral import Triplets, polar, thin
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2502.04959"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": WEIGHT,
    "lambda": LAMBDA,
    "common": Parameter(
        "fraction f of the directions that are the experts' common space",
        0.8,
        published=0.8,
        legal=(0.0, 1.0),
        search=(0.3, 1.0),
    ),
}
PREPARES = (1.0, 0.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The flattened common and own spaces as a dense delta."""
    if not is_matrix(tensor):
        return mean(inputs)
    scale, relative = ratios(inputs.weights())
    common, own = dimensions(
        min(tensor.shape[-2:]), float(inputs.shared["common"]), len(inputs.experts)
    )

    def flat() -> Tensor:
        shared = thin(weighted(tensor, inputs, relative)).first(common)
        parts = [shared]
        for e, w in zip(inputs.experts, relative, strict=True):
            d = w * matrix(tensor, e)
            parts.append(thin(d - shared.u @ (shared.u.mT @ d), d).first(own))
        found = Triplets(*(torch.cat(rows, -1) for rows in zip(*map(_rows, parts), strict=True)))
        return kept(tensor, found.mean() * (polar(found.u) @ polar(found.v).mT))

    key = (inputs.experts, relative, common)
    return dense([tensor.latest("iso_cts", key, flat)], [scale], inputs)


def dimensions(limit: int, fraction: float, n: int) -> tuple[int, int]:
    """Directions of the common space, and of each expert's own; together at most `limit`."""
    own = min(round((limit - int(limit * fraction)) / n), limit // n)
    return limit - n * own, own


def _rows(t: Triplets) -> tuple[Tensor, Tensor, Tensor]:
    return t.u, t.s, t.v
