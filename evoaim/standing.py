"""How a search stands: its front, the volume that it dominates, the best of every objective."""

from collections.abc import Sequence

import numpy as np

from evoaim.front import Losses, hypervolume, reference_point
from evoaim.ledger import Trial
from evoaim.results import losses
from evoaim.snapshot import Snapshot
from fitness.types import Estimate, Objective


class Standing:
    """Running figures over the trials, which are counted in the order of their numbers.

    Whatever order candidates finish in, the figures after a batch are therefore the same.
    """

    def __init__(self, objectives: Sequence[Objective], parents: Losses | None = None) -> None:
        """Begin a search.

        Args:
            objectives: that are optimized.
            parents: (n, n_objectives), what hypervolumes are measured from; None: the candidates
                of the first batch.
        """
        self.objectives = tuple(objectives)
        self.trials: list[Trial] = []
        self.front: list[Trial] = []  # the non-dominated eligible trials
        self.best: dict[str, Estimate] = {}
        self.failed = self.raced = self.documents = 0
        self.seconds = 0.0
        self.parents_volume = self.volume = 0.0
        self._members = np.empty((0, len(self.objectives)))  # losses of the front
        self._waiting: dict[int, Trial] = {}  # for the trials before them
        self._volumes: list[float] = []  # after every trial
        self._parents = np.empty((0, len(self.objectives)))
        self._reference: Losses | None = None
        if parents is not None:
            self._parents, self._reference = parents, reference_point(parents)
            self.parents_volume = self.volume = hypervolume(parents, self._reference)

    def count(self, trial: Trial) -> None:
        """Take a trial in, as soon as all earlier ones are in."""
        self._waiting[trial.number] = trial
        while (following := self._waiting.pop(len(self.trials), None)) is not None:
            self._count(following)

    def end_batch(self) -> None:
        """A batch is complete: without parents, the first one gives the reference point."""
        if self._reference is None and self.front:
            able = [t for t in self.trials if t.eligible]
            self._reference = reference_point(self.points(able))
            self._measure()

    def stalled(self, candidates: int, gain: float) -> bool:
        """Whether the volume grew by no more than this share over the last so many candidates."""
        if len(self._volumes) <= candidates:
            return False
        before = self._volumes[-1 - candidates]
        return self.volume - before <= gain * before

    def points(self, trials: Sequence[Trial]) -> Losses:
        """Losses of finished trials: (n, n_objectives)."""
        return losses(self.objectives, [t.estimates for t in trials])

    def snapshot(self, budget: int | None) -> Snapshot:
        """The figures as progress is told."""
        return Snapshot(
            len(self.trials),
            budget,
            self.failed,
            self.raced,
            len(self.front),
            self.volume,
            self.parents_volume,
            dict(self.best),
            self.seconds,
            self.documents,
        )

    def _count(self, trial: Trial) -> None:
        """Costs a comparison with the front alone."""
        self.trials.append(trial)
        self.seconds += trial.seconds
        self.failed += trial.state == "failed"
        self.raced += trial.raced
        self.documents += trial.documents
        if trial.eligible:
            self._enter(trial)
        self._volumes.append(self.volume)

    def _enter(self, trial: Trial) -> None:
        point = self.points([trial])
        for o, loss in zip(self.objectives, point[0], strict=True):
            if o.name not in self.best or loss < o.loss(self.best[o.name].ranked):
                self.best[o.name] = trial.estimates[o.name]
        if (self._members <= point).all(axis=1).any():
            return
        kept = np.asarray((self._members < point).any(axis=1))
        self.front = [t for t, keep in zip(self.front, kept, strict=True) if keep] + [trial]
        self._members = np.concatenate([self._members[kept], point])
        self._measure()

    def _measure(self) -> None:
        if self._reference is None:
            return
        points = np.concatenate([self._members, self._parents])
        self.volume = hypervolume(points, self._reference)
