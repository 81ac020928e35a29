"""RVEA: one candidate a reference vector, by distance and an angle that matters ever more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.operators.selection.rnd import RandomSelection
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Losses, Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._directions import directions
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from evoaim.optimizers._survival import FeasibleFirst
from search_spaces.genes import Gene, Genome

PAPER = "Cheng et al. 2016, doi:10.1109/TEVC.2016.2519378"
OBJECTIVES = "many"

_ALPHA = 2.0  # how late the angle begins to matter, eq. 10
_ADAPTED = 0.1  # of the generations: how often the vectors are scaled to the front


@dataclass(frozen=True)
class Params:
    """As of `nsga2`, and the generations after which the angle matters most."""

    population: Annotated[int, Ge(2)] = 16
    generations: Annotated[int, Ge(1)] = 20
    crossover_eta: Annotated[float, Ge(1), Le(100)] = 3.0
    mutation_eta: Annotated[float, Ge(1), Le(100)] = 3.0


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    cube = UnitCube(genes)
    genetic = GeneticParams(params.population, params.crossover_eta, params.mutation_eta)
    algorithm = GeneticAlgorithm(
        **variation(cube, genetic, initial),
        selection=RandomSelection(),
        survival=FeasibleFirst(
            AnglePenalizedDistance(directions(n_objectives, params.population), params.generations)
        ),
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)


class AnglePenalizedDistance:
    """Selects the best candidate of each vector; then, other than the paper, the second ones.

    The paper lets the population shrink to one a vector; of 16 that can leave three parents.
    """

    def __init__(self, vectors: NDArray[np.float64], generations: int) -> None:
        self._spread = _unit(vectors)
        self._vectors = self._spread
        self._generations = generations
        self._generation = 0
        self._ideal = np.full(vectors.shape[1], np.inf)

    def __call__(self, losses: Losses, n: int) -> NDArray[np.intp]:
        """The `n` that survive of (n_candidates, n_objectives), best first."""
        self._generation += 1
        self._ideal = np.minimum(self._ideal, losses.min(axis=0))
        niche, distance = self._penalized(losses - self._ideal)
        order = np.lexsort([distance, niche])
        starts = np.r_[True, np.diff(niche[order]) > 0]
        place = np.empty(len(order), dtype=np.intp)  # within the niche
        place[order] = np.arange(len(order)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
        kept: NDArray[np.intp] = np.lexsort([distance, place])[:n]
        if self._generation % max(round(_ADAPTED * self._generations), 1) == 0:
            self._adapt(losses[kept[place[kept] == 0]].max(axis=0))
        return kept

    def _penalized(self, shifted: Losses) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        # The vector nearest to each candidate, and the distance of eq. 9.
        distances = np.linalg.norm(shifted, axis=1)
        along = _unit(shifted) @ self._vectors.T
        angles = np.arccos(np.clip(along, -1, 1))
        between = np.arccos(np.clip(self._vectors @ self._vectors.T, -1, 1))
        np.fill_diagonal(between, np.inf)
        nearest = np.maximum(between.min(axis=1), 1e-6)
        niche = angles.argmin(axis=1)
        share = min(self._generation / self._generations, 1.0) ** _ALPHA
        penalty = shifted.shape[1] * share * angles.min(axis=1) / nearest[niche]
        return niche, distances * (1 + penalty)

    def _adapt(self, nadir: NDArray[np.float64]) -> None:
        # A front without extent along an objective cannot say how to scale it.
        extent = nadir - self._ideal
        if (extent > 0).all():
            self._vectors = _unit(self._spread * extent)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
