"""Documents drawn from strata (a field of the document) in proportion to their sizes."""

from dataclasses import dataclass

import numpy as np

from fitness.errors import FitnessError
from fitness.samples import Population, Selection
from fitness.sampling import selected

PAPER = "Cochran, Sampling Techniques (1977), chapter 5"
REFERENCES = 0
EVEN = True


@dataclass(frozen=True)
class Params:
    """The field of a document whose value names its stratum: a sub-task, a language, a level."""

    by: str


def select(population: Population, n: int, params: Params, rng: np.random.Generator) -> Selection:
    """At least one document of every stratum, the others by largest remainders.

    Raises:
        FitnessError: fewer documents than strata, so that some would be empty.
    """
    labels = np.asarray(population.labels, dtype=str)
    names, stratum, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if n < len(names):
        raise FitnessError(
            f"panel stratified by '{params.by}': {n} documents for {len(names)} strata would leave "
            f"some empty ('{names[sizes.argmin()]}' has {sizes.min()} of {len(labels)} documents); "
            f"ask for at least {len(names)} documents, or take another field"
        )
    take = _allocate(sizes, n)
    drawn = [rng.choice(np.flatnonzero(stratum == h), k, replace=False) for h, k in enumerate(take)]
    probability = (take / sizes)[stratum]
    return selected(np.concatenate(drawn), probability, stratum.astype(np.int64), rng)


def _allocate(sizes: np.ndarray, n: int) -> np.ndarray:
    """Documents a stratum: one each, the rest in proportion, never more than there are."""
    share = n * sizes / sizes.sum()
    take = np.clip(np.floor(share), 1, sizes).astype(np.int64)
    while take.sum() != n:
        up = take.sum() < n
        room = take < sizes if up else take > 1
        gap = np.where(room, share - take if up else take - share, -np.inf)
        take[gap.argmax()] += 1 if up else -1
    return np.asarray(take)
