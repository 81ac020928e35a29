"""Any genetic algorithm of pymoo as a proposer, over the unit cube."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from pymoo.core.algorithm import Algorithm
from pymoo.core.evaluator import Evaluator
from pymoo.core.mating import Mating
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from evoaim.optimizers import Documents, Losses, Violations, ranked_violations
from evoaim.optimizers._cube import Key, UnitCube
from evoaim.optimizers._variation import MixedCrossover, mixed_mutation
from search_spaces.genes import Genome, Real, Whole

_MATINGS = 20  # rounds of mating for one generation of new genomes
_DRAWS = 40  # rounds after those, of as many genomes as a generation has


@dataclass(frozen=True)
class GeneticParams:
    """Candidates a generation; nearness of children to parents: a larger eta searches closer."""

    population: Annotated[int, Ge(2)] = 16
    crossover_eta: Annotated[float, Ge(1), Le(100)] = 3.0
    mutation_eta: Annotated[float, Ge(1), Le(100)] = 3.0


def variation(cube: UnitCube, params: GeneticParams, initial: Sequence[Genome]) -> dict[str, Any]:
    """The arguments by which a genetic algorithm of pymoo makes its candidates."""
    return {
        "pop_size": params.population,
        "sampling": _sampling(cube, initial),
        "crossover": MixedCrossover(cube.genes, (Real, Whole), params.crossover_eta),
        "mutation": mixed_mutation(cube, params.mutation_eta),
        "eliminate_duplicates": NewGenomes(cube),
    }


class NewGenomes:
    """As pymoo's duplicate elimination: passes the individuals whose genome is new."""

    def __init__(self, cube: UnitCube) -> None:
        self._cube = cube

    def do(self, population: Population, *others: Population) -> Population:
        """Those of `population` that were not asked, are not in `others` and not repeated."""
        taken = [key for other in others for key in self._keys(other)]
        return population[self._cube.new(self._keys(population), taken)]

    def _keys(self, population: Population) -> list[Key]:
        # The last step of variation: an individual's point does not change after it.
        for individual in population:
            if "key" not in individual.data:
                individual.X = self._cube.settled(individual.X)  # children of equal scales
                individual.data["key"] = self._cube.key(individual.X)
        return [individual.data["key"] for individual in population]


class NewChildren:
    """As pymoo's mating: what a genetic algorithm's own finds, then draws from the whole cube.

    Near the end of a small space, few children of a converged population are new.
    """

    def __init__(self, cube: UnitCube, mating: Mating) -> None:
        self._new = NewGenomes(cube)
        self._mating = mating

    def do(
        self,
        problem: Problem,
        population: Population,
        n: int,
        algorithm: Algorithm,
        random_state: np.random.Generator,
    ) -> Population:
        """`n` children, or as many as are found."""
        children = self._mating.do(
            problem,
            population,
            n,
            n_max_iterations=_MATINGS,
            algorithm=algorithm,
            random_state=random_state,
        )
        for _ in range(_DRAWS):
            if len(children) == n:
                break
            drawn = Population.new(X=random_state.random((n, problem.n_var)))
            children = Population.merge(children, self._new.do(drawn, children))[:n]
        return children


class PymooProposer:
    """A genetic algorithm of pymoo over a unit cube, seeded through its own generator.

    Failed candidates enter as the largest constraint violations: every other one is preferred to
    them, whatever its losses, and no loss has to be made up for them.
    """

    def __init__(self, cube: UnitCube, algorithm: Algorithm, n_objectives: int, seed: int) -> None:
        self._cube = cube
        self._problem = Problem(
            n_var=len(cube.genes), n_obj=n_objectives, n_ieq_constr=1, xl=0.0, xu=1.0
        )
        algorithm.mating = NewChildren(cube, algorithm.mating)
        self._algorithm = algorithm.setup(self._problem, seed=seed, termination=NoTermination())
        self._infills: Any = None

    def ask(self) -> list[Genome]:
        """The next generation, less the genomes asked before; empty when none are found."""
        with _quiet():
            self._infills = self._algorithm.ask()
        if self._infills is None:
            return []
        genomes = [self._cube.genome(individual.X) for individual in self._infills]
        self._cube.asked.update(tuple(genome.items()) for genome in genomes)
        return genomes

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,  # noqa: ARG002 (for those that learn from them)
    ) -> None:
        """One row (n_objectives,) per genome of the last ask; see `Proposer.tell`."""
        constraint = ranked_violations(losses, violations)[:, None]
        finite = np.where(np.isinf(constraint), 0.0, losses)
        outcome = StaticProblem(self._problem, F=finite, G=constraint)
        Evaluator().eval(outcome, self._infills)
        with _quiet():
            self._algorithm.tell(infills=self._infills)


def prefer_feasible(
    population: Population,
    pairs: Any,  # (n, 2), indices into the population
    random_state: np.random.Generator,
    algorithm: Algorithm,  # noqa: ARG001 (pymoo passes it by name)
) -> Any:
    """A pymoo tournament: the smaller violation wins, a coin decides between equals.

    pymoo 0.6.2's own for NSGA-III breaks ties with a generator that no seed reaches.
    """
    violations = population.get("CV")[:, 0][pairs]
    coins = random_state.random(len(pairs)) < 0.5
    second = np.where(violations[:, 0] == violations[:, 1], coins, violations.argmin(axis=1) == 1)
    return pairs[np.arange(len(pairs)), second.astype(int)][:, None]


def _sampling(cube: UnitCube, initial: Sequence[Genome]) -> Callable[..., Population]:
    def sample(
        problem: Problem,  # noqa: ARG001 (pymoo passes it by position)
        n_samples: int,
        random_state: np.random.Generator,
        algorithm: Algorithm,  # noqa: ARG001 (pymoo passes it by name)
    ) -> Population:
        return Population.new(X=cube.first(initial, n_samples, random_state))

    return sample


@contextmanager
def _quiet() -> Iterator[None]:
    # Degenerate fronts divide by zero on the way, and NSGA-III changes the process's filters.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        yield
