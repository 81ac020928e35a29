"""Layer swapping: the middle layers of one model between the bottom and top layers of another.

    y = sum_i w_i x_i / sum_i w_i in the middle,  sum_i e_i x_i / sum_i e_i at the ends

with the models' `weight` w and `ends` e. In the paper the middle is the task's expert (w = 1, 0)
and the ends are the target language's (e = 0, 1). The ends are the layers below `bottom` and the
last `top` ones; next to them lie `bottom_transition` and `top_transition` layers where both parts
are mixed, `blend` of it from the middle; an end without layers has none. Where zones overlap, an
end goes before a transition. What lies outside the layers (embeddings, final norm, head) the paper
leaves open: that is `outside`. Counts are layers of the output, of 32 in the paper. Weights that
are all zero count as equal.
"""

from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import ALWAYS, Parameter

PAPER = "arXiv:2410.01335"
BASE = "none"
EXPERTS = (1, None)
OUTSIDE = {"ends": 0.0, "middle": 1.0, "mean": 0.5}  # share of the middle


def _weight(doc: str) -> Parameter:
    return Parameter(doc, None, 1.0, 1.0, (0.0, 1e6), (0.0, 1.0), per_model=True, relative=ALWAYS)


def _count(doc: str, published: float, most: float) -> Parameter:
    return Parameter(doc, published, published, 0.0, (0.0, 1e6), (0.0, most), whole=True)


PARAMETERS = {
    "weight": _weight("weight w of the model in the middle layers"),
    "ends": _weight("weight e of the model in the bottom and top layers"),
    "bottom": _count("number of bottom layers", 5.0, 10.0),
    "top": _count("number of top layers", 2.0, 8.0),
    "bottom_transition": _count("number of layers mixed after the bottom", 1.0, 3.0),
    "top_transition": _count("number of layers mixed before the top", 1.0, 3.0),
    "blend": Parameter(
        "share of the middle in mixed layers", 0.5, 0.5, 1.0, (0.0, 1.0), (0.0, 1.0)
    ),
    "outside": Parameter(
        "which part embeddings, final norm and head belong to; mean: half of both",
        default="ends",
        published="ends",
        identity="middle",
        choices=tuple(OUTSIDE),
    ),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """Coefficients of the zone that the tensor lies in."""
    share = _share(inputs)
    middle, ends = (_normalized(inputs.numbers(n)) for n in ("weight", "ends"))
    parts = zip(inputs.experts, middle, ends, strict=True)
    return combination({e: share * w + (1.0 - share) * v for e, w, v in parts})


def _normalized(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [w / total for w in weights] if total > 0.0 else [1 / len(weights)] * len(weights)


def _share(inputs: Inputs) -> float:
    """The middle's share in a tensor."""
    if inputs.layer is None:
        return OUTSIDE[str(inputs.shared["outside"])]
    below, above = inputs.layer, inputs.n_layers - 1 - inputs.layer  # layers there
    ends = ((below, "bottom"), (above, "top"))
    sizes = [float(inputs.shared[end]) for _, end in ends]
    if any(at < n for (at, _), n in zip(ends, sizes, strict=True)):
        return 0.0
    for (at, end), n in zip(ends, sizes, strict=True):
        if n > 0 and at < n + float(inputs.shared[f"{end}_transition"]):
            return float(inputs.shared["blend"])
    return 1.0
