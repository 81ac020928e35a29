"""Drawing documents with given probabilities, and the standard error of what they weigh up to."""

import numpy as np

from fitness.samples import Floats, Ints, Selection

_EXACT = 1e-9  # a probability this close to 1 is 1


def inclusion(size: Floats, n: int) -> Floats:
    """Probabilities proportional to `size`, at most 1, that sum to `n`: (N,).

    Sizes so large that their probability would exceed 1 are taken for certain, and the rest is
    shared out again (Särndal, Swensson and Wretman 1992, section 3.6.2).

    Args:
        size: (N,) above 0.
        n: 1 <= n <= N.
    """
    certain = np.zeros(len(size), dtype=bool)
    while True:
        left = np.where(certain, 0.0, size)
        probability = np.where(certain, 1.0, (n - certain.sum()) * left / max(left.sum(), 1e-300))
        over = probability > 1 + _EXACT
        if not over.any():
            return np.minimum(probability, 1.0)
        certain |= over


def systematic(probability: Floats, order: Ints, rng: np.random.Generator) -> Ints:
    """Positions drawn with the given probabilities, evenly along `order` (Madow 1949).

    Where neighbours in `order` are alike, this is a stratified sample with one document a stratum.

    Args:
        probability: (N,), summing to a whole number n.
        order: (N,) a permutation.
        rng: gives the one random start.
    """
    steps = np.cumsum(probability[order])
    n = round(float(steps[-1]))
    steps[-1] = n  # rounding errors must not lose the last document
    at = np.searchsorted(steps, rng.random() + np.arange(n), side="right")
    return np.asarray(order[at])


def selected(
    positions: Ints, probability: Floats, stratum: Ints, rng: np.random.Generator
) -> Selection:
    """A selection of these documents in random order; `probability` and `stratum` are (N,)."""
    run = rng.permutation(positions)
    return Selection(len(probability), run, probability[run], stratum[run])


def design_stderr(selection: Selection, residual: Floats) -> float:
    """Standard error of the weighted mean of `residual` over all documents of the task.

    Hájek's variance of a sample with unequal probabilities, which is the textbook formula with the
    finite-population factor for simple and stratified random samples (Berger 1998, eq. 4.2). A
    stratum with one document tells nothing of its variance; such ones are taken together.

    Args:
        selection: n documents.
        residual: (n,) value less the weighted mean, or less a prediction and that mean.
    """
    labels = _collapsed(selection.stratum)
    part = residual / selection.inclusion / selection.n_documents
    variance = 0.0
    for label in np.unique(labels):
        own = (labels == label) & (selection.inclusion < 1)  # what is certain has no error
        n = int(own.sum())
        if n < 2:
            continue
        left = 1 - selection.inclusion[own]
        centre = float((left * part[own]).sum() / left.sum())
        variance += n / (n - 1) * float((left * np.square(part[own] - centre)).sum())
    return float(np.sqrt(variance))


def _collapsed(stratum: Ints) -> Ints:
    """Labels with every stratum of a single document joined to the next one of that kind."""
    labels, index, counts = np.unique(stratum, return_inverse=True, return_counts=True)
    single = np.flatnonzero(counts == 1)
    joined = np.arange(len(labels))
    pairs = np.arange(len(single)) // 2
    if len(single) > 1 and len(single) % 2:
        pairs[-1] -= 1
    joined[single] = len(labels) + pairs
    if len(single) == 1 and len(labels) > 1:
        joined[single] = joined[single[0] - 1 if single[0] else 1]
    return np.asarray(joined[index])
