"""TSV-M: each expert's top singular triplets, made orthogonal between the experts.

Of each of the N deltas the top R // N triplets are kept, R = min(out, in); the left vectors of all
experts together are replaced by the nearest orthonormal ones (their polar factor), the right ones
too, and D = lambda * U diag(s) V^T. An expert's weight scales its singular values, which changes
neither factor: candidates cost one matrix product, and none if only lambda changes.
"""

import torch
from torch import Tensor

from evoaim.kernel import Mix
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT, dense, is_matrix, kept, matrix, mean, ratios, rounded
from evoaim.methods._shared import LAMBDA
from evoaim.methods._spectral import polar, thin
from evoaim.statistics import TensorStatistics

PAPER = "arXiv:2412.00081"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {"weight": WEIGHT, "lambda": LAMBDA}
PREPARES = (3.0, 0.0)


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """The sum of the decorrelated experts as a dense delta; a lone expert is what it is."""
    if len(inputs.experts) == 1 or not is_matrix(tensor):
        return mean(inputs)
    scale, relative = ratios(inputs.weights())

    def product() -> Tensor:
        u, s, v = tensor.latest("tsv_m factors", inputs.experts, lambda: _factors(tensor, inputs))
        each = s.shape[-1] // len(inputs.experts)
        w = torch.tensor(relative, dtype=s.dtype, device=s.device).repeat_interleave(each)
        return kept(tensor, (u.float() * (s * w)[..., None, :]) @ v.float().mT)

    key = (inputs.experts, relative)
    return dense([tensor.latest("tsv_m", key, product)], [scale], inputs)


def _factors(tensor: TensorStatistics, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """U (..., out, k) and V (..., in, k) with orthonormal columns, s (..., k) float32."""
    each = max(1, min(tensor.shape[-2:]) // len(inputs.experts))
    found = [thin(matrix(tensor, e)).first(each) for e in inputs.experts]
    u = rounded(tensor, polar(torch.cat([t.u for t in found], -1)))
    v = rounded(tensor, polar(torch.cat([t.v for t in found], -1)))
    return u, torch.cat([t.s for t in found], -1).float(), v
