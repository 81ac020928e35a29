"""Documents on which the references disagree, the more probable the more they do.

What all parents solve, or all fail, hardly tells merges of them apart. A share of the documents is
drawn without regard to that, since a merge can also break what every parent could do.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from fitness.samples import Floats, Population, References, Selection
from fitness.sampling import inclusion, selected, systematic

PAPER = "probability proportional to size: Särndal, Swensson and Wretman 1992, section 3.6"
REFERENCES = 2
EVEN = False


@dataclass(frozen=True)
class Params:
    """Share of the documents that are drawn whether the references disagree or not."""

    guard: Annotated[float, Gt(0), Le(1)] = 0.2


def select(population: Population, n: int, params: Params, rng: np.random.Generator) -> Selection:
    """A systematic sample along the references' mean, probable as their standard deviation is."""
    size = population.n_documents
    seen = _answers(population.references)
    spread = seen.std(axis=0)
    share = spread / spread.sum() if spread.sum() > 0 else np.full(size, 1 / size)
    probability = inclusion((1 - params.guard) * share + params.guard / size, n)
    order = np.lexsort((rng.random(size), seen.mean(axis=0)))
    positions = systematic(probability, order, rng)
    return selected(positions, probability, np.zeros(size, dtype=np.int64), rng)


def _answers(references: References) -> Floats:
    """(M, N) the probabilities of the right answers where there are any, else the scores."""
    found = references.score if references.soft is None else references.soft
    return np.asarray(np.nan_to_num(found), dtype=np.float64)
