"""Breadcrumbs' masks, which drop a delta's smallest and its very largest elements."""

from functools import partial

import torch
from torch import Tensor

from evoaim.kernel import Bits, Keep, Term
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA, density, normalize, rescale, weight
from evoaim.statistics import CHUNK, TensorStatistics
from search_spaces.parameters import Parameter

PARAMETERS = {
    "weight": weight(0.4),
    "density": density(0.2, 0.05),
    "gamma": Parameter(
        "fraction of the delta's elements, the largest ones, that are dropped first",
        default=0.01,
        published=0.01,
        identity=0.0,
        legal=(0.0, 1.0),
        search=(0.0, 0.1),
        per_model=True,
    ),
    "lambda": LAMBDA,
    "normalize": normalize(False),
    "rescale": rescale(False),
    "scope": Parameter(
        "among what the largest are sought: tensor (mergekit) or each row (the paper)",
        default="tensor",
        published="row",
        identity="tensor",
        choices=("tensor", "row"),
    ),
}


def banded(tensor: TensorStatistics, inputs: Inputs) -> list[Term]:
    """One term an expert, masked by magnitude."""
    terms = []
    for e, w in zip(inputs.experts, inputs.weights(), strict=True):
        kept, dropped = (float(inputs.own[e][n]) for n in ("density", "gamma"))
        by_row = inputs.shared["scope"] == "row" and kept < 1.0
        keep = _rows(tensor, e, kept, dropped) if by_row else tensor.band(e, kept, dropped)
        factor = tensor.rescale(e, keep) if inputs.shared["rescale"] else 1.0
        terms.append(Term(e, w, factor, keep))
    return terms


def _rows(tensor: TensorStatistics, expert: str, kept: float, dropped: float) -> Keep:
    compute = partial(_row_bands, tensor, expert, kept, dropped)
    return tensor.latest(("row band", expert), (kept, dropped), compute)


def _row_bands(tensor: TensorStatistics, expert: str, kept: float, dropped: float) -> Keep:
    """Of every row: without the `dropped` largest, the `kept` largest (fractions of the row)."""
    columns = tensor.shape[-1] if tensor.shape else 1
    n = int(kept * columns)
    first = min(int(dropped * columns), columns - n)
    mask: Tensor = torch.zeros(tensor.size // columns, columns, dtype=torch.bool)
    step = max(1, CHUNK // columns)
    for row in range(0, len(mask), step):
        part = mask[row : row + step]
        d = tensor.chunk(expert, row * columns, row * columns + part.numel()).abs().view(part.shape)
        order = torch.sort(d, dim=1, descending=True, stable=True).indices
        part.scatter_(1, order[:, first : first + n], True)
    return Bits(mask.view(tensor.shape).to(tensor.device))
