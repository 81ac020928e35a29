"""RAM: keep what only one expert changed, average what several did.

    y = x0 + sum_i s_i / max(1, number of experts active there),   s_i = d_i where |d_i| > epsilon

per element; an expert is active where its delta exceeds `epsilon`. Reinforced Agent Merging, for
experts trained by reinforcement learning, whose deltas are sparse.
"""

from typing import Any

from evoaim.kernel import ONE, ZERO, Mix, Term, update, where, zero
from evoaim.methods import Inputs
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2601.13572"
BASE = "delta"
EXPERTS = (1, None)
EPSILON = Parameter(
    "magnitude above which an element of a delta is active",
    default=1e-5,
    published=1e-5,
    identity=0.0,
    legal=(0.0, 1.0),
    search=(1e-7, 1e-3),
    log=True,
)
PARAMETERS = {"epsilon": EPSILON}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:  # noqa: ARG001
    """One term an expert."""
    terms = tuple(Term(e, 1.0) for e in inputs.experts)
    return Mix(terms, update=active_mean, scalars=(float(inputs.shared["epsilon"]),))


@update
def active_mean(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """Mean of the s_i with |s_i| > p_0; where it is one only, times its weight."""
    y, n, alone = zero(s[0, j]), zero(s[0, j]), zero(s[0, j])
    for i in range(len(w)):
        x = s[i, j]
        active = abs(x) > p[0]
        y = y + where(active, x, ZERO)
        alone = alone + where(active, x * w[i], ZERO)
        n = n + where(active, ONE, ZERO)
    return where(n > ONE, y / where(n == ZERO, ONE, n), alone)
