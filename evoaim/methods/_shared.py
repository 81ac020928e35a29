"""What several merge methods have in common: parameters, with mergekit's defaults, and terms."""

from evoaim.kernel import Term
from evoaim.methods import Inputs
from search_spaces.parameters import Parameter

LAMBDA = Parameter(
    "scale of the merged delta", default=1.0, published=1.0, identity=1.0, search=(0.3, 2.0)
)


def weight(published: float) -> Parameter:
    """A model's weight w; the published value is the paper's."""
    return Parameter(
        "weight w of the model",
        None,
        published,
        1.0,
        search=(0.0, 1.5),
        per_model=True,
        relative="normalize",
    )


def density(published: float, low: float) -> Parameter:
    """Fraction of a delta's elements that are kept; `low` is the least that is searched."""
    return Parameter(
        "fraction of the delta's elements that are kept",
        1.0,
        published,
        1.0,
        legal=(0.0, 1.0),
        search=(low, 1.0),
        per_model=True,
    )


def normalize(default: bool) -> Parameter:
    """Whether the sum is divided by the weights that take part."""
    return Parameter("divide by the sum of the weights", default=default, switch=True)


def rescale(default: bool) -> Parameter:
    """Whether a masked delta gets its L1 norm back."""
    return Parameter("restore each masked delta's L1 norm", default=default, switch=True)


# DARE's and DELLA's second way to rescale; it has an effect only where `rescale` is true.
RESCALE_BY = Parameter(
    "what a rescaled delta is multiplied by: l1, the ratio of its L1 norms (mergekit), or "
    "probability, 1 over the probability with which an element is kept (the papers)",
    default="l1",
    published="probability",
    identity="l1",
    choices=("l1", "probability"),
)


def own_weight() -> Parameter:
    """A weight that the method's source does not have: 1 there."""
    return Parameter(
        "weight w of the model (an addition: 1 in the paper)",
        1.0,
        1.0,
        1.0,
        search=(0.0, 1.5),
        per_model=True,
    )


def plain(inputs: Inputs) -> tuple[Term, ...]:
    """A term for every expert whose weight is not zero, nothing masked."""
    pairs = zip(inputs.experts, inputs.weights(), strict=True)
    return tuple(Term(e, w) for e, w in pairs if w != 0.0)
