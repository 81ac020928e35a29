"""A population of slots that move, one candidate each: differential evolution, swarms."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evoaim.optimizers import Documents, Losses, Violations, ranked_violations
from evoaim.optimizers._cube import Key, Points, UnitCube
from search_spaces.genes import Genome

Slots = NDArray[np.intp]
Places = NDArray[np.intp]  # (n,), 0 for the best

_MOVES = 10  # of a slot, for one genome that was not asked before
_DRAWS = 40  # after those, from the whole cube


class Rule(Protocol):
    """How slots move; it knows where they are."""

    def start(self, points: Points, places: Places, rng: np.random.Generator) -> None:
        """Put one slot at each point."""

    def move(self, slots: Slots, rng: np.random.Generator) -> Points:
        """(len(slots), n_genes): where these slots might go."""

    def settle(
        self,
        slots: Slots,
        points: Points,
        better: NDArray[np.bool_],
        strayed: NDArray[np.bool_],
    ) -> None:
        """Where they went, whether that beats the best of their slot, or is less feasible."""

    def rank(self, places: Places) -> None:
        """The places of all slots' best candidates among each other."""


class SlotProposer:
    """A rule over a unit cube. Every ask moves every slot, as far as new genomes are found."""

    def __init__(
        self,
        cube: UnitCube,
        rule: Rule,
        population: int,
        seed: int,
        initial: Sequence[Genome],
    ) -> None:
        self._cube = cube
        self._rule = rule
        self._rng = np.random.default_rng(seed)
        self._population = population
        self._initial: Points | None = cube.first(initial, population, self._rng)
        self._best = np.empty((0, 2))  # (n_slots, 2): violation and loss
        self._slots: Slots = np.empty(0, dtype=np.intp)  # of the last ask
        self._points: Points = np.empty((0, len(cube.genes)))

    def ask(self) -> list[Genome]:
        """A genome for every slot that finds a new one; empty when none does."""
        found: dict[int, NDArray[np.float64]] = {}
        taken: set[Key] = set()
        n_slots = len(self._best) if self._initial is None else len(self._initial)
        for attempt in range(_MOVES + _DRAWS):
            waiting = np.array([slot for slot in range(n_slots) if slot not in found], np.intp)
            if len(waiting) == 0:
                break
            points = self._tries(waiting, attempt)
            keys = [self._cube.key(point) for point in points]
            for i in self._cube.new(keys, taken):
                found[int(waiting[i])] = points[i]
                taken.add(keys[i])
        self._cube.asked |= taken
        self._slots = np.array(list(found), dtype=np.intp)  # in this order: initial genomes first
        self._points = np.array(list(found.values()))
        return [self._cube.genome(point) for point in self._points]

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,  # noqa: ARG002 (for those that learn from them)
    ) -> None:
        """One row (1,) per genome of the last ask; see `Proposer.tell`."""
        constraint = ranked_violations(losses, violations)
        scores = np.column_stack([constraint, np.where(np.isinf(constraint), 0.0, losses[:, 0])])
        if self._initial is not None:
            self._initial = None
            kept = _order(scores)[: self._population]
            self._best = scores[kept]
            self._rule.start(self._points[kept], _places(self._best), self._rng)
            return
        old = self._best[self._slots]
        better = (scores[:, 0] < old[:, 0]) | (
            (scores[:, 0] == old[:, 0]) & (scores[:, 1] < old[:, 1])
        )
        self._best[self._slots[better]] = scores[better]
        self._rule.settle(self._slots, self._points, better, scores[:, 0] > old[:, 0])
        self._rule.rank(_places(self._best))

    def _tries(self, slots: Slots, attempt: int) -> Points:
        if self._initial is not None and attempt == 0:
            return self._initial
        if self._initial is None and attempt < _MOVES:
            return self._rule.move(slots, self._rng)
        return self._rng.random((len(slots), len(self._cube.genes)))


def redraw_choices(cube: UnitCube, points: Points, rng: np.random.Generator) -> Points:
    """Points whose choices are, one in a genome on average over all genes, drawn anew."""
    redrawn = cube.unordered & (rng.random(points.shape) < 1 / len(cube.genes))
    return np.where(redrawn, rng.random(points.shape), points)


def _order(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.lexsort([scores[:, 1], scores[:, 0]])


def _places(scores: NDArray[np.float64]) -> Places:
    places = np.empty(len(scores), dtype=np.intp)
    places[_order(scores)] = np.arange(len(scores))
    return places
