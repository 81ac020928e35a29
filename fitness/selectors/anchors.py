"""Anchors: one document for each cluster of documents that the references answer alike.

Every anchor stands for its cluster, so the panel's mean weighted by the clusters' sizes estimates
the mean over all documents. With few references many documents have the same answers and clusters
say little; the weights are unequal, which costs precision in any case.
"""

from dataclasses import dataclass

import numpy as np

from fitness.errors import FitnessError
from fitness.samples import Floats, Population, Selection

PAPER = "Polo et al., tinyBenchmarks (2024), arXiv 2402.14992, correctness anchors"
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
    """The documents nearest to the centroids of k-means on the references' scores.

    Raises:
        FitnessError: no document has a value, or fewer than `n` differ in the references' scores.
    """
    score = population.references.score
    columns = np.flatnonzero(~np.isnan(score).all(axis=0)) if len(score) else np.arange(0)
    vectors = score[:, columns].T
    means = np.nanmean(vectors, axis=1, keepdims=True) if len(columns) else vectors
    vectors = np.where(np.isnan(vectors), means, vectors)
    return nearest_to_centroids(vectors, columns, n, population.n_documents, rng)


def nearest_to_centroids(
    vectors: Floats,
    columns: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    n: int,
    n_documents: int,
    rng: np.random.Generator,
) -> Selection:
    """One document of each of `n` clusters; `inclusion` is 1 / its cluster's size.

    Args:
        vectors: (C, F) what documents are clustered by.
        columns: (C,) their positions in the task's set.
        n: how many are chosen.
        n_documents: of the whole set.
        rng: starts k-means and shuffles the order.

    Raises:
        FitnessError: fewer than `n` vectors are distinct.
    """
    distinct = len(np.unique(np.round(vectors, 9), axis=0))
    if distinct < n:
        raise FitnessError(
            f"{n} anchors need as many documents that the references answer differently, there are "
            f"{distinct} among {n_documents}; use the selector 'disagreement', fewer documents, or "
            "more references"
        )
    from sklearn.cluster import KMeans  # seconds to import
    from threadpoolctl import threadpool_limits

    seed = int(rng.integers(2**31))
    with threadpool_limits(1):  # the order in which threads add would show in the last digits
        found = KMeans(n, n_init=10, random_state=seed).fit(vectors)
    away = np.square(vectors - found.cluster_centers_[found.labels_]).sum(axis=1)
    order = np.lexsort((np.arange(len(away)), away, found.labels_))
    _, first, size = np.unique(found.labels_[order], return_index=True, return_counts=True)
    shuffled = rng.permutation(n)
    return Selection(
        n_documents,
        columns[order[first]][shuffled],
        1 / size[shuffled],
        np.zeros(n, dtype=np.int64),
        random=False,
    )
