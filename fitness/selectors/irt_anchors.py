"""IRT anchors: one document for each cluster of documents alike in discrimination and difficulty.

See `fitness.selectors.anchors`; the item model smooths what few references answered.
"""

from dataclasses import dataclass

import numpy as np

from fitness import irt
from fitness.errors import FitnessError
from fitness.samples import Population, Selection
from fitness.selectors.anchors import nearest_to_centroids

PAPER = "Polo et al., tinyBenchmarks (2024), arXiv 2402.14992, IRT anchors; items by MAP"
REFERENCES = 20
EVEN = False


@dataclass(frozen=True)
class Params:
    """It has none."""


def select(
    population: Population,
    n: int,
    params: Params,  # noqa: ARG001
    rng: np.random.Generator,
) -> Selection:
    """The documents nearest to the centroids of k-means on (slopes, difficulty).

    Raises:
        FitnessError: scores are outside [0, 1], there are none, or fewer than `n` documents differ.
    """
    score = population.references.score
    if not len(score) or np.isnan(score).all():
        raise FitnessError(
            "irt_anchors needs references scored on all documents, got none; use the selector "
            "'random'"
        )
    columns = np.flatnonzero(~np.isnan(score).all(axis=0))
    answers = score[:, columns]
    items = irt.fit(answers, irt.best_dimensions(answers)).items
    vectors = np.column_stack([items.slope, items.difficulty])
    return nearest_to_centroids(vectors, columns, n, population.n_documents, rng)
