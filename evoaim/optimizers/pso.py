"""Particle swarm: candidates with momentum, drawn to their own best and to the common one."""

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

PAPER = "Kennedy and Eberhart 1995; constants: Clerc and Kennedy 2002; constraints: He et al. 2004"
OBJECTIVES = "one"

_FASTEST = 0.2  # of the range of a gene, a move


@dataclass(frozen=True)
class Params:
    """Candidates a generation; momentum kept; pulls towards the own and the common best place."""

    population: Annotated[int, Ge(2)] = 16
    inertia: Annotated[float, Gt(0), Le(1)] = 0.73
    own: Annotated[float, Gt(0), Le(4)] = 1.5
    common: Annotated[float, Gt(0), Le(4)] = 1.5


def build(
    genes: Sequence[Gene],
    n_objectives: int,  # noqa: ARG001 (one, see OBJECTIVES)
    params: Params,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer (see `evoaim.optimizers`)."""
    cube = UnitCube(genes)
    return SlotProposer(cube, _Swarm(cube, params), params.population, seed, initial)


class _Swarm:
    """Slots that always go; they remember their best places."""

    def __init__(self, cube: UnitCube, params: Params) -> None:
        self._cube = cube
        self._params = params
        self._points: Points = np.empty((0, len(cube.genes)))
        self._best = self._speed = self._points
        self._leader = 0

    def start(self, points: Points, places: Places, rng: np.random.Generator) -> None:
        self._points, self._best = points.copy(), points.copy()
        self._speed = _FASTEST * rng.uniform(-1, 1, points.shape)
        self.rank(places)

    def move(self, slots: Slots, rng: np.random.Generator) -> Points:
        here, own, common = self._points[slots], self._best[slots], self._best[self._leader]
        params = self._params
        speed = (
            params.inertia * self._speed[slots]
            + params.own * rng.random(here.shape) * (own - here)
            + params.common * rng.random(here.shape) * (common - here)
        )
        numbers = np.clip(here + np.clip(speed, -_FASTEST, _FASTEST), 0, 1)
        # Options have no speed: one of the three places is taken over
        options = np.choose(rng.integers(3, size=here.shape), [here, own, common + 0 * here])
        return redraw_choices(self._cube, np.where(self._cube.unordered, options, numbers), rng)

    def settle(
        self,
        slots: Slots,
        points: Points,
        better: NDArray[np.bool_],
        strayed: NDArray[np.bool_],
    ) -> None:
        self._speed[slots] = points - self._points[slots]
        self._points[slots] = points
        self._best[slots[better]] = points[better]
        # He et al. 2004: fly back; momentum would go on crossing the border of what is feasible
        back = slots[strayed]
        self._speed[back] = 0
        self._points[back] = self._best[back]

    def rank(self, places: Places) -> None:
        self._leader = int(places.argmin())
