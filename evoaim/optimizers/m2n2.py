"""M2N2: an archive of niches, kept apart by competition for documents; mates complement."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from evoaim.optimizers import Documents, Losses, Proposer, Violations, ranked_violations
from evoaim.optimizers import _niches as niches
from evoaim.optimizers._cube import UnitCube
from search_spaces.genes import Gene, Genome

PAPER = "Abrantes, Lange and Tang 2025, arXiv:2508.16204"
OBJECTIVES = "many"
DOCUMENTS = True
_CHILDREN = 20  # for one genome that was not asked before
_DRAWS = 500  # uniform ones, after those
Point = NDArray[np.float64]  # (n_genes,), in the unit cube
_LAYER_GROUP = re.compile(r"\.g(\d+)(\.|$)")


@dataclass(frozen=True)
class Params:
    """Members of the archive, sharpness of their competition, candidates an ask, mutation.

    `noise` is the deviation of numbers, in sides of the unit cube, and half the rate at which
    choices are drawn again. Without it (0, as in the paper) no child leaves its parents' hull.
    """

    population: Annotated[int, Ge(2)] = 20
    alpha: Annotated[float, Ge(0), Le(1)] = 1.0
    batch: Annotated[int, Ge(1)] = 8
    noise: Annotated[float, Ge(0), Le(0.5)] = 0.05


def build(
    genes: Sequence[Gene],
    n_objectives: int,  # noqa: ARG001 (losses are only used where there are no documents)
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    return M2n2Proposer(genes, params, seed, initial)


@dataclass(frozen=True)
class Member:
    """A candidate of the archive, as it was told."""

    point: Point
    violation: float
    losses: NDArray[np.float64]  # (n_objectives,)
    documents: NDArray[np.float64] | None  # (n_documents,)


class M2n2Proposer:
    """The initial genomes, uniform ones until the archive can be full, then children of it."""

    def __init__(
        self, genes: Sequence[Gene], params: Params, seed: int, initial: Sequence[Genome]
    ) -> None:
        self._cube = UnitCube(genes)
        self._depth = np.argsort([depth(gene) for gene in genes], kind="stable")
        self._params = params
        self._rng = np.random.default_rng(seed)
        self._first = list(self._cube.first(initial, params.population, self._rng))
        self._points: list[Point] = []  # of the last ask
        self._archive: list[Member] = []
        self._share: niches.Table = np.empty((0, 0))  # of the archive

    def ask(self) -> list[Genome]:
        """The next batch; shorter, in the end empty, when mating and draws find no new genomes."""
        self._points = []
        genomes: list[Genome] = []
        while len(genomes) < self._params.batch and (point := self._next()) is not None:
            self._points.append(point)
            genomes.append(self._cube.genome(point))
            self._cube.asked.add(self._cube.key(point))
        return genomes

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,
    ) -> None:
        """One row per genome of the last ask; without documents, losses make up some."""
        ranked = ranked_violations(losses, violations)
        for i, (point, violation) in enumerate(zip(self._points, ranked, strict=True)):
            if np.isfinite(violation):
                scores = None if documents is None else documents[i]
                self._archive.append(Member(point, float(violation), losses[i], scores))
        if self._archive:
            alpha, size = self._params.alpha, self._params.population
            pool = np.array([member.violation for member in self._archive])
            kept = niches.survivors(self._table(pool <= 0), pool, size, alpha)
            self._archive = [self._archive[i] for i in kept]
            self._share = niches.shares(self._table(pool[kept] <= 0), alpha)

    def _table(self, feasible: NDArray[np.bool_]) -> niches.Table:
        rows = [m.documents for m in self._archive if m.documents is not None]
        if len(rows) == len(self._archive):
            scores = np.array(rows)
        else:
            scores = niches.ladders(np.array([member.losses for member in self._archive]))
        return niches.solved(scores, feasible)

    def _next(self) -> Point | None:
        return next((p for p in self._stream() if self._cube.key(p) not in self._cube.asked), None)

    def _stream(self) -> Iterator[Point]:
        while self._first:
            yield self._first.pop(0)
        if self._archive:
            for _ in range(_CHILDREN):
                yield self._child()
        for _ in range(_DRAWS):
            yield self._rng.random(len(self._cube.genes))

    def _child(self) -> Point:
        first = niches.drawn(self._share.sum(axis=1), self._rng)
        second = niches.drawn(niches.attraction(self._share, first), self._rng)
        a, b = self._archive[first].point, self._archive[second].point
        part = np.empty(len(a))  # of b in the child
        split, mix = int(self._rng.integers(len(a))), self._rng.random()
        part[self._depth[:split]] = mix
        part[self._depth[split:]] = 1 - mix
        child = np.where(self._cube.unordered, np.where(part > 0.5, b, a), a + part * (b - a))
        return self._mutated(child)

    def _mutated(self, point: Point) -> Point:
        noise = self._params.noise
        moved = np.clip(point + self._rng.normal(0.0, noise, len(point)), 0.0, 1.0)
        redrawn = self._rng.random(len(point)) < 2 * noise
        uniform = self._rng.random(len(point))
        return np.where(self._cube.unordered, np.where(redrawn, uniform, point), moved)


def depth(gene: Gene) -> int:
    """The layer group that a gene belongs to, by its name; -1, before all layers, if to none."""
    group = _LAYER_GROUP.search(gene.name)
    return int(group[1]) if group else -1
