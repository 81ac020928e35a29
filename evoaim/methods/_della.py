"""DELLA's MagPrune: a random drop that spares large deltas, for both ways to combine the rest."""

from collections.abc import Mapping
from dataclasses import replace

from evoaim.errors import CandidateError
from evoaim.kernel import Term
from evoaim.methods import Inputs
from evoaim.methods._shared import LAMBDA, RESCALE_BY, density, normalize, rescale, weight
from evoaim.statistics import TensorStatistics
from search_spaces.parameters import Parameter, Setting


def parameters(normalized: bool) -> dict[str, Parameter]:
    """The parameters; whether the sum is divided by the weights by default."""
    return {
        "weight": weight(1.0),
        "density": density(0.7, 0.2),
        "epsilon": Parameter(
            "half-width of the keep probabilities around the density: they run from density - "
            "epsilon for a row's smallest to density + epsilon for its largest; must lie in (0, 1)",
            default=0.15,
            published=0.07,
            legal=(0.0, 0.5),
            per_model=True,
        ),
        "spread": Parameter(
            "a further half-width, as a fraction of min(density, 1 - density): below 1 it is legal "
            "at every density, so searches set epsilon to 0 and search this",
            default=0.0,
            published=0.233,
            legal=(0.0, 1.0),
            search=(0.0, 0.95),
            per_model=True,
        ),
        "lambda": LAMBDA,
        "normalize": normalize(normalized),
        "rescale": rescale(True),
        "rescale_by": RESCALE_BY,
    }


def dropped(tensor: TensorStatistics, inputs: Inputs) -> list[Term]:
    """One term an expert, masked by coins that follow the ranks within rows.

    Raises:
        CandidateError: a probability is not inside (0, 1).
    """
    weights = zip(inputs.experts, inputs.weights(), strict=True)
    return [_masked(tensor, e, w, inputs) for e, w in weights]


def _masked(tensor: TensorStatistics, e: str, w: float, inputs: Inputs) -> Term:
    kept = float(inputs.own[e]["density"])
    if kept <= 0.0 or kept >= 1.0:
        return Term(e, w, keep=tensor.largest(e, kept))
    low, high = _ends(e, inputs.own[e])
    by = str(inputs.shared["rescale_by"]) if inputs.shared["rescale"] else ""
    if tensor.shape[-1:] in ((), (1,)):  # a row of one element has no ranks
        coin = tensor.coin(e, kept, inputs.seed)
        factor = tensor.rescale(e, coin) if by == "l1" else 1 / kept if by else 1.0
        return Term(e, w, factor, coin)
    keep = tensor.ranked(e, low, high, inputs.seed)
    if by == "l1":
        return Term(e, w, tensor.rescale(e, keep), keep)
    return Term(e, w, keep=replace(keep, unbiased=bool(by)))


def _ends(expert: str, own: Mapping[str, Setting]) -> tuple[float, float]:
    """The probabilities of a row's smallest and largest element."""
    kept, epsilon, spread = (float(own[n]) for n in ("density", "epsilon", "spread"))
    half = epsilon + spread * min(kept, 1 - kept)
    if kept - half <= 0.0 or kept + half >= 1.0:
        raise CandidateError(
            f"della: the probabilities of '{expert}' must lie inside (0, 1); density {kept:g}, "
            f"epsilon {epsilon:g} and spread {spread:g} give {kept - half:g} to {kept + half:g}; "
            "lower epsilon, or set it to 0 and spread below 1"
        )
    return kept - half, kept + half
