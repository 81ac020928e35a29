"""Parameters that several merge methods have in common; their defaults are mergekit's."""

from search_spaces.parameters import Parameter

LAMBDA = Parameter(
    "scale of the merged delta", default=1.0, published=1.0, identity=1.0, search=(0.3, 2.0)
)


def weight(published: float) -> Parameter:
    """A model's weight w; the published value is the paper's."""
    return Parameter(
        "weight w of the model", None, published, 1.0, search=(0.0, 1.5), per_model=True
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
