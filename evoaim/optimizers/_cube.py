"""Genomes as points of the unit cube: every gene is one coordinate."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.genes import Choice, Gene, Genome, Real, Value, scaled

Points = NDArray[np.float64]  # (n, n_genes), in the unit cube
Key = tuple[tuple[str, Value], ...]


class UnitCube:
    """The points of a space's genomes, and which of these were asked.

    Two points are the same where their genomes are: coordinates of inactive genes, which are only
    carried along, and steps below a gene's grid make no difference.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        self.genes = tuple(genes)
        self.unordered = np.array([isinstance(gene, Choice) for gene in genes])
        self._ratios = [
            (i, gene) for i, gene in enumerate(genes) if isinstance(gene, Real) and gene.ratio
        ]
        at = {gene.name: i for i, gene in enumerate(genes)}
        near = [(i, at[g.near]) for i, g in enumerate(genes) if isinstance(g, Real) and g.near]
        self._near = tuple(np.array([pair[k] for pair in near], np.intp) for k in (0, 1))
        self.asked: set[Key] = set()

    def genome(self, point: NDArray[np.float64]) -> Genome:
        """The canonical genome at a point (n_genes,)."""
        genome: dict[str, Value] = {}
        for gene, unit in zip(self.genes, self._absolute(point).tolist(), strict=True):
            if gene.when is None or genome.get(gene.when.gene) in gene.when.values:
                genome[gene.name] = gene.decode(unit)
        return scaled(self.genes, genome)

    def settled(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """The point with its ratios where its genome has them, else as it is."""
        if not self._ratios:
            return point
        genome, known = self.genome(point), self.points([self.genome(point)])[0]
        active = [i for i, gene in self._ratios if gene.name in genome]
        point = point.copy()
        point[active] = known[active]
        return point

    def key(self, point: NDArray[np.float64]) -> Key:
        """What two points with the same genome have in common."""
        return tuple(self.genome(point).items())

    def points(self, genomes: Sequence[Genome]) -> Points:
        """The points of genomes; inactive genes in the middle."""
        rows = [
            [g.encode(genome[g.name]) if g.name in genome else 0.5 for g in self.genes]
            for genome in genomes
        ]
        points = np.array(rows).reshape(-1, len(self.genes))
        genes, anchors = self._near
        points[:, genes] = _share(points[:, genes] - points[:, anchors])
        return points

    def _absolute(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """The point with every gene's own coordinate, where it was its distance from another."""
        genes, anchors = self._near
        if not len(genes):
            return point
        point = point.copy()
        point[genes] = np.clip(point[anchors] + _distance(point[genes]), 0, 1)
        return point

    def active(self, points: Points) -> NDArray[np.bool_]:
        """(n, n_genes): the genes that make a difference at each point."""
        genomes = [self.genome(point) for point in points]
        rows = [[gene.name in genome for gene in self.genes] for genome in genomes]
        return np.array(rows).reshape(-1, len(self.genes))

    def first(self, initial: Sequence[Genome], n: int, rng: np.random.Generator) -> Points:
        """All of `initial`, then a Latin hypercube up to `n` points."""
        n_fill = max(n - len(initial), 0)
        order = np.argsort(rng.random((len(self.genes), n_fill)), axis=1).T
        fill = (order + rng.random(order.shape)) / max(n_fill, 1)
        return np.vstack([self.points(initial), fill])

    def new(self, keys: Iterable[Key], taken: Iterable[Key] = ()) -> list[int]:
        """The positions of keys that were not asked, are not taken and not repeated."""
        seen = set(taken)
        fresh = []
        for i, key in enumerate(keys):
            if key not in self.asked and key not in seen:
                seen.add(key)
                fresh.append(i)
        return fresh


def _distance(share: Points) -> Points:
    """From the unit interval to [-1, 1]: d + 4 d^3, which is finest around none."""
    centred = share - 0.5
    return np.asarray(centred + 4 * centred**3)


def _share(distance: Points) -> Points:
    """The inverse of `_distance`, by Cardano's formula."""
    root = np.sinh(np.arcsinh(3 * math.sqrt(3) * distance) / 3) / math.sqrt(3)
    return np.asarray(np.clip(root + 0.5, 0, 1))
