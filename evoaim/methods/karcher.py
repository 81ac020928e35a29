"""Karcher mean: the point of a sphere with the least mean squared arc to the models' directions.

    u <- cos|T| u + sin|T| T/|T|,   T = sum_i a_i theta_i/sin(theta_i) (u_i - cos(theta_i) u)

with u_i = x_i/|x_i|, theta_i the angle between u_i and u, a_i the weights w_i divided by their sum;
it starts at the normalised mean and stops when |T| < `tol` or after `max_iter` steps. The result is
(sum_i a_i |x_i|) u, per flattened tensor; as in mergekit points with a norm up to `tol` count in
that scale but have no direction, and a base model is one more point.

Unlike mergekit: models may have weights (the default is equal ones, as there), and the iteration
runs on inner products in float64 instead of on tensors in their dtype.
"""

from typing import Any

import numpy as np

from evoaim.errors import CandidateError
from evoaim.kernel import Mix
from evoaim.methods import Inputs, combination
from evoaim.methods._geometry import NO_ANGLE, directions
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter

PAPER = "arXiv:2603.04972"
BASE = "point"
EXPERTS = (1, None)
PARAMETERS = {
    "weight": Parameter(
        "weight w of the model",
        default=1.0,
        published=1.0,
        identity=1.0,
        legal=(0.0, 1e6),
        search=(0.0, 1.5),
        per_model=True,
    ),
    "max_iter": Parameter("most steps", default=10.0, legal=(0.0, 1e6), whole=True),
    "tol": Parameter("length of a step at which to stop", default=1e-5, legal=(0.0, 1.0)),
}


def mix(tensor: TensorStatistics, inputs: Inputs) -> Mix:
    """Coefficients of the mean in the span of the models."""
    w = inputs.weights()
    if sum(w) <= 0.0:
        raise CandidateError(f"karcher: the weights of '{tensor.name}' sum to zero")
    stop = (int(inputs.shared["max_iter"]), float(inputs.shared["tol"]))
    coefficients = tensor.recent(
        ("karcher", inputs.experts, tuple(w), stop), lambda: _mean(tensor, inputs, *stop)
    )
    return combination(dict(zip(inputs.experts, coefficients, strict=True)))


def _mean(tensor: TensorStatistics, inputs: Inputs, steps: int, tol: float) -> list[float]:
    """c of the mean `sum_i c_i x_i`."""
    norms, cosines = map(np.array, directions(tensor, inputs.experts, None))
    a = np.array(inputs.weights()) / sum(inputs.weights())
    scale = float(a @ norms)
    valid = (norms > tol) & (a > 0)
    if not valid.any():
        return [0.0] * len(a)
    a = a * valid / a[valid].sum()
    u = _unit(a, cosines)
    if u is None:  # the directions cancel: start at one of them
        u = np.eye(len(a))[valid.argmax()]
    for _ in range(steps):
        cosine = (cosines @ u).clip(-1.0, 1.0)
        angle = np.arccos(cosine)
        sine = np.sin(angle)
        # at the mean itself nothing pulls; opposite to it no direction is the right one
        pull = np.divide(a * angle, sine, out=np.zeros_like(a), where=sine > max(tol, NO_ANGLE))
        step = pull - (pull @ cosine) * u
        length = np.sqrt(max(float(step @ cosines @ step), 0.0))
        if length < tol:
            break
        u = _unit(np.cos(length) * u + np.sin(length) / length * step, cosines, u)
    return (scale * u / np.where(valid, norms, 1.0)).tolist()  # type: ignore[no-any-return]


def _unit(x: Any, cosines: Any, otherwise: Any = None) -> Any:
    length = np.sqrt(max(float(x @ cosines @ x), 0.0))
    return x / length if length > NO_ANGLE else otherwise
