"""MOEA/D: one candidate a reference direction, mated with and replacing its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.util.display.multi import MultiObjectiveOutput

from evoaim.optimizers import Losses, Proposer
from evoaim.optimizers._cube import UnitCube
from evoaim.optimizers._directions import Directions, directions
from evoaim.optimizers._pymoo import GeneticParams, PymooProposer, variation
from search_spaces.genes import Gene, Genome

PAPER = "Zhang and Li 2007, doi:10.1109/TEVC.2007.892759; replacement: Wang et al. 2014, CEC"
OBJECTIVES = "many"

_LOCAL = 0.9  # share of matings among neighbours
_AUGMENT = 1e-3  # weight of the sum of losses, which tells weakly dominated candidates apart


@dataclass(frozen=True)
class Params:
    """As of `nsga2`; directions that mate; those that one candidate takes at most."""

    population: Annotated[int, Ge(2)] = 16
    neighbours: Annotated[int, Ge(2)] = 5
    replaced: Annotated[int, Ge(1)] = 2
    crossover_eta: Annotated[float, Ge(1), Le(100)] = 3.0
    mutation_eta: Annotated[float, Ge(1), Le(100)] = 3.0


def build(
    genes: Sequence[Gene],
    n_objectives: int,
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`); a generation at a time, not one candidate."""
    cube = UnitCube(genes)
    genetic = GeneticParams(params.population, params.crossover_eta, params.mutation_eta)
    weights = directions(n_objectives, params.population)
    near = _neighbours(weights, params.neighbours)
    algorithm = GeneticAlgorithm(
        **variation(cube, genetic, initial),
        selection=LocalMating(near),
        survival=Decomposition(weights, near, params.replaced),
        advance_after_initial_infill=True,
        output=MultiObjectiveOutput(),
    )
    return PymooProposer(cube, algorithm, n_objectives, seed)


class LocalMating:
    """A pymoo selection: every direction in turn, mostly two of its neighbours."""

    def __init__(self, near: NDArray[np.bool_]) -> None:
        self._near = near

    def __call__(
        self,
        problem: Problem,  # noqa: ARG002 (pymoo passes it by position)
        population: Population,
        n_matings: int,
        n_parents: int,
        random_state: np.random.Generator,
        algorithm: Algorithm,  # noqa: ARG002 (pymoo passes it by name)
    ) -> list[Population]:
        """`n_matings` populations of `n_parents`."""
        n = len(self._near)
        centres = np.concatenate([random_state.permutation(n) for _ in range(-(-n_matings // n))])
        pools = [
            np.flatnonzero(self._near[centre]) if random_state.random() < _LOCAL else np.arange(n)
            for centre in centres[:n_matings]
        ]
        return [population[random_state.choice(p, n_parents, replace=False)] for p in pools]


class Decomposition:
    """A pymoo survival: who holds each direction; what it returns is in the directions' order.

    A candidate contends for the direction that it suits best and its neighbours, the worst-off
    first. It takes one from an infeasible holder if it is feasible, or less infeasible, whatever
    their losses. One candidate can hold several directions.
    """

    def __init__(self, weights: Directions, near: NDArray[np.bool_], replaced: int) -> None:
        self._weights = np.maximum(weights, 1e-3)
        self._near = near
        self._replaced = replaced
        self._n_holders = 0
        self._ideal = np.full(weights.shape[1], np.inf)

    def do(
        self,
        problem: Problem,  # noqa: ARG002 (pymoo passes it by position)
        population: Population,  # the holders, then the newcomers
        n_survive: int,  # noqa: ARG002 (pymoo passes it by name)
        algorithm: Algorithm,  # noqa: ARG002
        random_state: np.random.Generator,  # noqa: ARG002
    ) -> Population:
        """One holder a direction."""
        n = len(self._weights)
        losses, violations = population.get("F", "CV")
        values = self._values(losses, violations[:, 0])
        holders = np.arange(n) % len(population)
        for newcomer in range(self._n_holders, len(population)):
            self._settle(holders, newcomer, values, violations[:, 0])
        self._n_holders = n
        return population[holders]

    def _values(self, losses: Losses, violations: NDArray[np.float64]) -> NDArray[np.float64]:
        # (n_candidates, n_directions): augmented Tchebycheff of losses scaled by the feasible ones.
        feasible = violations <= 0
        if feasible.any():
            self._ideal = np.minimum(self._ideal, losses[feasible].min(axis=0))
            nadir = losses[feasible].max(axis=0)
            extent = np.where(nadir > self._ideal, nadir - self._ideal, 1.0)
            losses = (losses - self._ideal) / extent
        ratios = losses[:, None] / self._weights
        values: NDArray[np.float64] = ratios.max(axis=2) + _AUGMENT * ratios.sum(axis=2)
        return values

    def _settle(
        self,
        holders: NDArray[np.intp],
        newcomer: int,
        values: NDArray[np.float64],
        violations: NDArray[np.float64],
    ) -> None:
        held = values[holders, np.arange(len(holders))]
        given = violations[holders]
        own = violations[newcomer]
        better = (own < given) | ((own == given) & (values[newcomer] < held))
        contended = np.flatnonzero(self._near[values[newcomer].argmin()] & better)
        worst_first = contended[np.lexsort([-held[contended], -given[contended]])]
        holders[worst_first[: self._replaced]] = newcomer


def _neighbours(weights: Directions, n: int) -> NDArray[np.bool_]:
    distances = np.linalg.norm(weights[:, None] - weights, axis=2)
    reach = np.sort(distances, axis=1)[:, min(n, len(weights)) - 1]
    near: NDArray[np.bool_] = distances <= reach[:, None] + 1e-9
    return near
