"""Documents drawn without replacement, each as probable as any other."""

from dataclasses import dataclass

import numpy as np

from fitness.samples import Population, Selection
from fitness.sampling import selected

PAPER = "Cochran, Sampling Techniques (1977), chapter 2"
REFERENCES = 0
EVEN = True


@dataclass(frozen=True)
class Params:
    """None."""


def select(population: Population, n: int, _params: Params, rng: np.random.Generator) -> Selection:
    """A simple random sample."""
    size = population.n_documents
    positions = rng.choice(size, n, replace=False)
    return selected(positions, np.full(size, n / size), np.zeros(size, dtype=np.int64), rng)
