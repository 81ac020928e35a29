"""WIDEN: weigh every column of each delta by how far it moved in size and in direction.

Per expert and column (input channel; token of an embedding), a = | |x_i| - |x_0| | and b = 1 -
cos(x_i, x_0) are replaced by their rank within the expert's tensor, in [0, 1). A column's score is
the softmax of its ranks over the experts, or the calibration value where its rank is above the
expert's mean rank times the ratio; the scores of a and b are averaged, and the expert's delta is
multiplied by them. Of vectors, every element has its own score, from |d_i|. The scores are not
normalised: a column that is important to all N experts weighs N, as in the authors' code.
"""

from functools import partial

import torch
from torch import Tensor

from evoaim.kernel import BASE as BASE_MODEL
from evoaim.kernel import Mix, Term
from evoaim.methods import Inputs
from evoaim.methods._dense import WEIGHT
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2408.03092"
BASE = "delta"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": WEIGHT,
    "ratio": Parameter(
        "multiple of an expert's mean rank above which a column is important to it",
        default=1.0,
        published=1.0,
        legal=(0.0, 1e6),
        search=(0.0, 2.0),
    ),
    "calibration": Parameter(
        "score of the columns that are important to an expert",
        default=1.0,
        published=1.0,
        identity=1.0,
        search=(0.3, 1.5),
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """One term an expert, with a factor for every column."""
    scores = tensor.latest("widen", _settings(inputs), lambda: _scores(tensor, inputs))
    rows = zip(inputs.experts, inputs.weights(), scores, strict=True)
    return Mix(tuple(Term(e, w, factor=c) for e, w, c in rows if w != 0.0))


def _settings(inputs: Inputs) -> tuple[object, ...]:
    return inputs.experts, inputs.shared["ratio"], inputs.shared["calibration"]


def _scores(tensor: TensorStatistics, inputs: Inputs) -> tuple[Tensor, ...]:
    """c_i of every expert: float32, broadcastable to the tensor."""
    ratio, value = float(inputs.shared["ratio"]), float(inputs.shared["calibration"])
    found = [tensor.once(("widen", e), partial(_ranks, tensor, e)) for e in inputs.experts]
    ranks = torch.stack(found)  # (experts, statistics, ..., columns)
    n = ranks.shape[-1]
    important = ranks > ratio * (n - 1) / 2
    scores = torch.where(important, value, (ranks / n).softmax(0)).mean(1)
    return tuple(_broadcast(tensor, c).to(tensor.device) for c in scores)


def _ranks(tensor: TensorStatistics, expert: str) -> Tensor:
    """Ranks of the columns' changes: (statistics, ..., columns), float32, 0 is the least."""
    if len(tensor.shape) < 2:
        changes = tensor.delta(expert).abs().reshape(1, -1)
    else:
        x, x0 = (tensor.load(m).double() for m in (expert, BASE_MODEL))
        along = _channels(tensor)
        size, size0 = (torch.linalg.vector_norm(v, dim=along) for v in (x, x0))
        scale = size * size0
        cosine = (x * x0).sum(along) / torch.where(scale > 0, scale, 1.0)
        cosine = torch.where(size == size0, torch.where(scale > 0, cosine, 1.0), cosine)
        changes = torch.stack([(size - size0).abs(), 1 - cosine])
    order = torch.argsort(changes, dim=-1, stable=True)
    ranks = torch.arange(changes.shape[-1], dtype=torch.float32).expand(changes.shape)
    return torch.empty(changes.shape).scatter_(-1, order, ranks)


def _channels(tensor: TensorStatistics) -> int:
    """The axis that lies within a column."""
    by_row = tensor.axis == -2 or tensor.kind in ("embedding", "tied")
    return -1 if by_row else -2


def _broadcast(tensor: TensorStatistics, scores: Tensor) -> Tensor:
    if len(tensor.shape) < 2:
        return scores.reshape(tensor.shape)
    return scores.unsqueeze(_channels(tensor)).contiguous()
