"""NearSwap: move from the base towards one other model, each element by at most t.

    y = x_b + clip(x_1 - x_b, -t, t)

Elements that differ by up to t take the model's value. mergekit writes the same as an
interpolation with weight min(1, t / max(|x_1 - x_b|, 1e-6)), which falls short of t where t and
the difference are below 1e-6; here it is exactly the clip. Any model may be the base.
"""

from typing import Any

from evoaim.kernel import Mix, update, where
from evoaim.methods import Inputs
from evoaim.methods._geometry import ends, start, way
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
BASE = "endpoint"
EXPERTS = (1, 1)
PARAMETERS = {
    "t": Parameter(
        "largest step of an element towards the other model",
        None,
        published=1e-4,
        identity=1e6,
        legal=(0.0, 1e30),
        search=(1e-6, 1e-2),
        log=True,
    )
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """Both models, and t."""
    terms = ends(inputs.experts[0], str(inputs.base))
    return Mix(terms, update=clipped, scalars=(float(inputs.shared["t"]),))


@update
def clipped(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """The way from one end to the other, clipped to p_0, added to its start."""
    d = way(s, w, j)
    return start(s, w, j) + where(d > p[0], p[0], where(d < -p[0], -p[0], d))
