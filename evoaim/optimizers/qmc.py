"""Sobol points: fill the space more evenly than random draws; a first stage, not a learner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from scipy.stats import qmc

from evoaim.optimizers import Documents, Losses, Proposer, Violations
from evoaim.optimizers._cube import Key, UnitCube
from search_spaces.genes import Gene, Genome

PAPER = "Sobol 1967; scrambled: Owen 1998; in search: Bergstra and Bengio 2012"
OBJECTIVES = "many"
_DRAWS = 512  # of points, for one genome that was not asked before


@dataclass(frozen=True)
class Params:
    """How many candidates are asked at once."""

    batch: Annotated[int, Ge(1)] = 8


def build(
    genes: Sequence[Gene],
    n_objectives: int,  # noqa: ARG001 (it does not look at losses)
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    return QmcProposer(genes, params.batch, seed, initial)


class QmcProposer:
    """A scrambled Sobol sequence over all genes; coordinates of inactive genes are passed over."""

    def __init__(
        self, genes: Sequence[Gene], batch: int, seed: int, initial: Sequence[Genome]
    ) -> None:
        self._batch = batch
        self._sequence = qmc.Sobol(len(genes), scramble=True, rng=seed)
        self._cube = UnitCube(genes)
        self._initial = list(self._cube.points(initial))

    def ask(self) -> list[Genome]:
        """The next points; fewer, in the end none, when they bring no new genomes."""
        genomes: list[Genome] = []
        while len(genomes) < self._batch and (key := self._next()) is not None:
            self._cube.asked.add(key)
            genomes.append(dict(key))
        return genomes

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,
    ) -> None:
        """Nothing is learned."""

    def _next(self) -> Key | None:
        while self._initial:
            if (key := self._cube.key(self._initial.pop(0))) not in self._cube.asked:
                return key
        for _ in range(_DRAWS):
            if (key := self._cube.key(self._sequence.random(1)[0])) not in self._cube.asked:
                return key
        return None
