"""A search distribution over mixed genes: CatCMA with margin over their unit-cube coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cmaes import CatCMAwM
from numpy.typing import NDArray

from search_spaces.genes import Choice, Gene, Real, Whole

Point = NDArray[np.float64]  # (n_genes,), in the unit cube

_RESOLUTION = 1e-3  # of the unit interval: below it, recipes hardly differ
_TRUST = 0.5  # in the options of the start; the rest is spread over all

Sample = Any  # CatCMAwM.Solution: numbers, whole numbers and one-hot choices


class MixedDistribution:
    """Gaussian over numbers, with a margin for whole ones; categorical over choices.

    Hamano et al. 2025, arXiv:2504.07884. A whole number of two values is a choice, as there.
    """

    def __init__(
        self, genes: Sequence[Gene], population: int | None, sigma: float, start: Point, seed: int
    ) -> None:
        sizes = [_n_values(gene) for gene in genes]
        choice = [
            isinstance(gene, Choice) or size == 2 for gene, size in zip(genes, sizes, strict=True)
        ]
        self._real = [i for i, size in enumerate(sizes) if size == 0]
        self._whole = [i for i, size in enumerate(sizes) if size > 2 and not choice[i]]
        self._choice = [i for i, size in enumerate(sizes) if size > 1 and choice[i]]
        self._sizes = [sizes[i] for i in self._choice]
        self._start = start
        numbers = [*self._real, *self._whole]
        self._cma = CatCMAwM(
            x_space=[(0.0, 1.0)] * len(self._real) or None,
            z_space=[_middles(sizes[i]) for i in self._whole] or None,
            c_space=self._sizes or None,
            population_size=population,
            mean=start[numbers],
            sigma=sigma,
            cov=np.eye(len(numbers)),
            cat_param=self._trusting(start) if self._choice else None,
            seed=seed,
        )

    @property
    def population(self) -> int:
        """Samples that one `update` takes."""
        return int(self._cma.population_size)

    def sample(self) -> tuple[Sample, Point]:
        """One sample, and the point it stands for."""
        sample = self._cma.ask()
        point = self._start.copy()
        if sample.x is not None:
            point[self._real] = sample.x
        if sample.z is not None:
            point[self._whole] = sample.z
        if sample.c is not None:
            point[self._choice] = (sample.c.argmax(axis=1) + 0.5) / self._sizes
        return sample, point

    def update(self, ranked: Sequence[Sample]) -> None:
        """Move towards the first of `ranked`, which has `population` samples, best first."""
        self._cma.tell([(sample, float(rank)) for rank, sample in enumerate(ranked)])

    def converged(self) -> bool:
        """Whether no coordinate moves by more than a recipe's resolution."""
        if not self._real and not self._whole:
            return False
        deviations = self._cma._sigma * np.sqrt(np.diag(self._cma._C))
        return bool(deviations.max() < _RESOLUTION) or self._cma.should_stop()

    def _trusting(self, start: Point) -> NDArray[np.float64]:
        # (n_choices, most options): the probabilities of the options, zero-padded.
        table = np.zeros((len(self._choice), max(self._sizes)))
        for row, i, size in zip(table, self._choice, self._sizes, strict=True):
            row[:size] = (1 - _TRUST) / size
            row[min(int(start[i] * size), size - 1)] += _TRUST
        return table


def _n_values(gene: Gene) -> int:
    # 0: too many to count
    if isinstance(gene, Real):
        return 0
    return gene.high - gene.low + 1 if isinstance(gene, Whole) else len(gene.options)


def _middles(n: int) -> list[float]:
    return [(i + 0.5) / n for i in range(n)]
