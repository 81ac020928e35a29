"""Documents spread evenly over the difficulty that the references found: one from every bin."""

from dataclasses import dataclass

import numpy as np

from fitness.samples import Population, Selection
from fitness.sampling import inclusion, selected, systematic

PAPER = "Cochran, Sampling Techniques (1977), chapter 8 (systematic sampling from an ordered list)"
REFERENCES = 1
EVEN = True


@dataclass(frozen=True)
class Params:
    """None."""


def select(population: Population, n: int, _params: Params, rng: np.random.Generator) -> Selection:
    """A systematic sample along the references' mean score, ties in random order."""
    size = population.n_documents
    with np.errstate(invalid="ignore"):
        ease = np.nan_to_num(np.nanmean(population.references.score, axis=0))
    order = np.lexsort((rng.random(size), ease))
    probability = inclusion(np.ones(size), n)
    positions = systematic(probability, order, rng)
    rank = np.empty(size, dtype=np.int64)
    rank[order] = np.arange(size)
    # neighbours on the list form a stratum, so that the error does not count what is between them
    pair = rank * n // size // 2
    return selected(positions, probability, pair, rng)
