"""Any pymoo algorithm as a proposer: every gene is one coordinate of the unit cube."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.sampling.lhs import sampling_lhs_unit
from pymoo.problems.static import StaticProblem

from evoaim.optimizers import Losses, Violations, ranked_violations
from search_spaces.genes import Choice, Gene, Genome, Value, canonical

Points = NDArray[np.float64]  # (n, n_genes), in the unit cube
Key = tuple[tuple[str, Value], ...]


class UnitCube:
    """The genomes as points of the unit cube; as pymoo's duplicate elimination, it passes new ones.

    Two points are the same where their genomes are: coordinates of inactive genes, which are only
    carried along, and steps below a gene's grid make no difference. No genome is asked twice.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        self.genes = tuple(genes)
        self.asked: set[Key] = set()

    def genome(self, point: NDArray[np.float64]) -> Genome:
        """The canonical genome at a point (n_genes,)."""
        pairs = zip(self.genes, point.tolist(), strict=True)
        return canonical(self.genes, {gene.name: gene.decode(unit) for gene, unit in pairs})

    def point(self, genome: Genome) -> list[float]:
        """The point of a genome; inactive genes in the middle."""
        return [g.encode(genome[g.name]) if g.name in genome else 0.5 for g in self.genes]

    def do(self, population: Population, *others: Population) -> Population:
        """Those of `population` whose genome was not asked, is not in `others` and not repeated."""
        taken = self.asked.union(*map(self._keys, others))
        fresh = []
        for i, key in enumerate(self._keys(population)):
            if key not in taken:
                taken.add(key)
                fresh.append(i)
        return population[fresh]

    def _keys(self, population: Population) -> list[Key]:
        return [tuple(self.genome(individual.X).items()) for individual in population]


def seeded_sampling(cube: UnitCube, initial: Sequence[Genome]) -> Callable[..., Population]:
    """A pymoo sampling: all of `initial`, then a Latin hypercube up to the population size."""
    seeds = np.array([cube.point(genome) for genome in initial]).reshape(-1, len(cube.genes))

    def sample(
        problem: Problem,
        n_samples: int,
        random_state: np.random.Generator,
        algorithm: Algorithm,  # noqa: ARG001 (pymoo passes it by name)
    ) -> Population:
        n_fill = max(n_samples - len(seeds), 0)
        fill = sampling_lhs_unit(n_fill, problem.n_var, random_state=random_state)
        return Population.new(X=np.vstack([seeds, fill]))

    return sample


def mixed_mutation(cube: UnitCube, eta: float) -> Callable[..., Population]:
    """A pymoo mutation: polynomial, but uniform on choices, whose options have no neighbours."""
    polynomial = PM(eta=eta)
    unordered = np.array([isinstance(gene, Choice) for gene in cube.genes])

    def mutate(
        problem: Problem,
        population: Population,
        random_state: np.random.Generator,
        algorithm: Algorithm,  # noqa: ARG001 (pymoo passes it by name)
    ) -> Population:
        population = polynomial(problem, population, random_state=random_state)
        points: Points = population.get("X")
        redrawn = unordered & (random_state.random(points.shape) < 1 / len(cube.genes))
        points[redrawn] = random_state.random(int(redrawn.sum()))
        return population.set("X", points)

    return mutate


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
        "sampling": seeded_sampling(cube, initial),
        "crossover": SBX(eta=params.crossover_eta, prob=0.9),
        "mutation": mixed_mutation(cube, params.mutation_eta),
        "eliminate_duplicates": cube,
    }


class PymooProposer:
    """A pymoo algorithm over a unit cube, seeded through its own generator.

    Failed candidates enter as the largest constraint violations: every other one is preferred to
    them, whatever its losses, and no loss has to be made up for them.
    """

    def __init__(self, cube: UnitCube, algorithm: Algorithm, n_objectives: int, seed: int) -> None:
        self._cube = cube
        self._problem = Problem(
            n_var=len(cube.genes), n_obj=n_objectives, n_ieq_constr=1, xl=0.0, xu=1.0
        )
        self._algorithm = algorithm.setup(self._problem, seed=seed, termination=NoTermination())
        self._infills: Any = None

    def ask(self) -> list[Genome]:
        """The next generation, less the genomes asked before; empty when mating finds none."""
        self._infills = self._algorithm.ask()
        if self._infills is None:
            return []
        genomes = [self._cube.genome(individual.X) for individual in self._infills]
        self._cube.asked.update(tuple(genome.items()) for genome in genomes)
        return genomes

    def tell(self, losses: Losses, violations: Violations | None = None) -> None:
        """One row (n_objectives,) per genome of the last ask; see `Proposer.tell`."""
        constraint = ranked_violations(losses, violations)[:, None]
        finite = np.where(np.isinf(constraint), 0.0, losses)
        outcome = StaticProblem(self._problem, F=finite, G=constraint)
        Evaluator().eval(outcome, self._infills)
        self._algorithm.tell(infills=self._infills)
