"""Differential evolution: every candidate steps towards a good one and along a difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from evoaim.optimizers import Proposer
from evoaim.optimizers._cube import Points, UnitCube
from evoaim.optimizers._slots import Places, SlotProposer, Slots, redraw_choices
from search_spaces.genes import Gene, Genome

PAPER = "Storn and Price 1997; current-to-pbest/1/bin: Zhang and Sanderson 2009"
OBJECTIVES = "one"


@dataclass(frozen=True)
class Params:
    """Candidates a generation; length of steps; share of genes that step; share of good ones."""

    population: Annotated[int, Ge(4)] = 16
    step: Annotated[float, Gt(0), Le(2)] = 0.6
    crossover: Annotated[float, Gt(0), Le(1)] = 0.7
    best: Annotated[float, Gt(0), Le(1)] = 0.2


def build(
    genes: Sequence[Gene],
    n_objectives: int,  # noqa: ARG001 (one, see OBJECTIVES)
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    cube = UnitCube(genes)
    return SlotProposer(cube, _Differential(cube, params), params.population, seed, initial)


class _Differential:
    """Slots that go only to better places."""

    def __init__(self, cube: UnitCube, params: Params) -> None:
        self._cube = cube
        self._params = params
        self._points: Points = np.empty((0, len(cube.genes)))
        self._places: Places = np.empty(0, dtype=np.intp)

    def start(self, points: Points, places: Places, rng: np.random.Generator) -> None:  # noqa: ARG002
        self._points = points.copy()
        self._places = places

    def move(self, slots: Slots, rng: np.random.Generator) -> Points:
        n = len(self._points)
        shape = (len(slots), self._points.shape[1])
        good = np.flatnonzero(self._places < max(round(self._params.best * n), 1))
        here, there = self._points[slots], self._points[rng.choice(good, len(slots))]
        one, other = self._points[rng.integers(n, size=(2, len(slots)))]
        # Dithered, or few candidates would soon have no other differences to offer
        steps = self._params.step * rng.uniform(0.5, 1.5, (len(slots), 1))
        numbers = _inside(here + steps * (there - here) + steps * (one - other), here)
        # Options have no differences: those of the good one and of a random one are taken over
        options = np.where(rng.random(shape) < 1 / 2, there, one)
        goal = np.where(self._cube.unordered, options, numbers)
        steps_taken = rng.random(shape) < self._params.crossover
        steps_taken[np.arange(len(slots)), rng.integers(shape[1], size=len(slots))] = True
        return redraw_choices(self._cube, np.where(steps_taken, goal, here), rng)

    def settle(
        self,
        slots: Slots,
        points: Points,
        better: NDArray[np.bool_],
        strayed: NDArray[np.bool_],  # noqa: ARG002 (worse places are left in any case)
    ) -> None:
        self._points[slots[better]] = points[better]

    def rank(self, places: Places) -> None:
        self._places = places


def _inside(points: Points, origin: Points) -> Points:
    # What left the cube ends halfway to its border, as in Zhang and Sanderson 2009.
    return np.where(points < 0, origin / 2, np.where(points > 1, (1 + origin) / 2, points))
