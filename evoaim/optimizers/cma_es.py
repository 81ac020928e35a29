"""CMA-ES: a Gaussian that learns its shape from the ranks of its samples, restarted when done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from evoaim.optimizers import Documents, Losses, Proposer, Violations, ranked_violations
from evoaim.optimizers._cube import Key, Points, UnitCube
from evoaim.optimizers._mixed_cma import MixedDistribution, Point, Sample
from search_spaces.genes import Gene, Genome

PAPER = (
    "Hansen and Ostermeier 2001; mixed variables: Hamano et al. 2025, arXiv:2504.07884; "
    "restarts: Auger and Hansen 2005"
)
OBJECTIVES = "one"
_IDLE = 20  # generations without a new genome, after which it starts again
_RESTARTS = 3  # in a row that found no new genome
_LARGEST = 32  # population of a restart, in first ones
_DRAWS = 500  # uniform ones an ask, when restarts find nothing new any more


@dataclass(frozen=True)
class Params:
    """Samples a generation (null: 4 + 3 log(genes)); first step size, of the unit cube's side."""

    population: Annotated[int, Ge(4)] | None = None
    sigma: Annotated[float, Gt(0), Le(1)] = 0.2


def build(
    genes: Sequence[Gene],
    n_objectives: int,  # noqa: ARG001 (it is one)
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    return CmaProposer(genes, params, seed, initial)


class CmaProposer:
    """CMA-ES that starts at the best initial genome, and again elsewhere once it has converged.

    A sample whose genome was asked before is not asked again: it enters the update with the loss
    that it had. Each restart is at a random point with twice the population, up to `_LARGEST`
    times the first one.
    """

    def __init__(
        self, genes: Sequence[Gene], params: Params, seed: int, initial: Sequence[Genome]
    ) -> None:
        self._cube = UnitCube(genes)
        self._params = params
        self._rng = np.random.default_rng(seed)
        self._initial = self._new(self._cube.points(initial))
        self._known: dict[Key, tuple[float, float]] = {}  # violation, loss: lower is better
        self._asked: list[Key] = []
        self._samples: list[tuple[Sample, Key]] = []  # of the generation that is being evaluated
        self._distribution: MixedDistribution | None = None
        self._largest = 0
        self._worn = False  # restarts find nothing new

    def ask(self) -> list[Genome]:
        """The initial genomes, then the new ones of a generation; in the end none."""
        if self._initial:
            self._asked, self._initial = self._initial, []
            return self._genomes()
        for _ in range(0 if self._worn else _RESTARTS):
            for _ in range(_IDLE):
                self._asked = self._generation()
                if self._asked:
                    return self._genomes()
                self._learn()
            self._distribution = self._restarted()
        self._worn, self._samples = True, []
        self._asked = self._new(self._rng.random((_DRAWS, len(self._cube.genes))))
        return self._genomes()

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,  # noqa: ARG002 (for those that learn from them)
    ) -> None:
        """One row (1,) per genome of the last ask; see `Proposer.tell`."""
        ranked = ranked_violations(losses, violations)
        for key, violation, loss in zip(self._asked, ranked, losses[:, 0], strict=True):
            failed = np.isinf(violation)
            self._known[key] = (float(violation), 0.0 if failed else float(loss))
        self._learn()

    def _genomes(self) -> list[Genome]:
        self._cube.asked.update(self._asked)
        return [dict(key) for key in self._asked]

    def _new(self, points: Points) -> list[Key]:
        keys = [self._cube.key(point) for point in points]
        return [keys[i] for i in self._cube.new(keys)]

    def _generation(self) -> list[Key]:
        if self._distribution is None:
            self._distribution = self._started()
        if self._distribution.converged():
            self._distribution = self._restarted()
        drawn = [self._distribution.sample() for _ in range(self._distribution.population)]
        self._samples = [(sample, self._cube.key(point)) for sample, point in drawn]
        keys = [key for _, key in self._samples]
        return [keys[i] for i in self._cube.new(keys)]

    def _learn(self) -> None:
        ranked = sorted(self._samples, key=lambda pair: self._known[pair[1]])
        if ranked and np.isfinite(self._known[ranked[0][1]][0]):  # nothing is learned if all failed
            assert self._distribution is not None
            self._distribution.update([sample for sample, _ in ranked])

    def _started(self) -> MixedDistribution:
        # At the best of the initial genomes; in the middle if none of them could be evaluated.
        best = min(self._known, key=lambda k: self._known[k], default=None)
        if best is None or np.isinf(self._known[best][0]):
            start = np.full(len(self._cube.genes), 0.5)
        else:
            start = self._cube.points([dict(best)])[0]
        first = self._at(start, self._params.population)
        self._largest = _LARGEST * first.population
        return first

    def _restarted(self) -> MixedDistribution:
        assert self._distribution is not None
        population = min(2 * self._distribution.population, self._largest)
        return self._at(self._rng.random(len(self._cube.genes)), population)

    def _at(self, start: Point, population: int | None) -> MixedDistribution:
        seed = int(self._rng.integers(2**31))
        return MixedDistribution(self._cube.genes, population, self._params.sigma, start, seed)
