"""Survival of the fittest for pymoo's genetic loop, from a function of the losses alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from evoaim.optimizers import Losses

# From the losses (n, n_objectives) of feasible candidates: the m <= n that survive, best first.
Select = Callable[[Losses, int], NDArray[np.intp]]


class FeasibleFirst:
    """A pymoo survival: feasible candidates as `select` has them, then the least infeasible.

    What survives is ordered, the best first.
    """

    def __init__(self, select: Select) -> None:
        self._select = select

    def do(
        self,
        problem: Problem,  # noqa: ARG002 (pymoo passes it by position)
        population: Population,
        n_survive: int,
        algorithm: Algorithm,  # noqa: ARG002 (pymoo passes it by name)
        random_state: np.random.Generator,  # noqa: ARG002
    ) -> Population:
        """At most `n_survive` of a population."""
        losses, violations = population.get("F", "CV")
        feasible = np.flatnonzero(violations[:, 0] <= 0)
        infeasible = np.argsort(violations[:, 0], kind="stable")[len(feasible) :]
        kept = feasible
        if len(feasible):
            kept = feasible[self._select(losses[feasible], min(n_survive, len(feasible)))]
        return population[np.concatenate([kept, infeasible])[:n_survive]]


def prefer_earlier(
    population: Population,  # noqa: ARG001 (pymoo passes it by position)
    pairs: Any,  # (n, 2), indices into the population
    random_state: np.random.Generator,  # noqa: ARG001 (pymoo passes it by name)
    algorithm: Algorithm,  # noqa: ARG001
) -> Any:
    """A pymoo tournament in an ordered population: the better place wins."""
    return pairs.min(axis=1)[:, None]
