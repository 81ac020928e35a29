"""More documents for the best candidates, until it is clear which of them belong to the front.

The panel counts as run in full; the other documents of a task come in one random order for all
candidates, so that any first part of it is a simple random sample of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fitness.estimators.sample_mean import mean
from fitness.panel import generator
from fitness.responses import sample
from fitness.samples import Floats, Ints, Selection
from fitness.scheme import Scheme
from fitness.types import Estimate, Metric, Objective, Panel, Scores

STAGES = (0.25, 0.5, 1.0)  # of the documents outside the panel
CLEAR = 2.0  # standard errors of a difference
DIFFERING = 6  # documents on which two candidates must differ (Kish's effective number)

Standing = Literal["in", "out", "open"]


@dataclass(frozen=True, eq=False)
class Extension:
    """The documents outside the panel, in the order in which promoted candidates run them."""

    scheme: Scheme
    order: Mapping[str, Ints]  # task -> places in its pool

    @classmethod
    def of(cls, scheme: Scheme) -> "Extension":
        """The extension of a scheme's panel; depends on the seed alone."""
        order = {}
        for task, pool in scheme.pools.items():
            rest = np.setdiff1d(np.arange(len(pool.positions)), scheme.selections[task].positions)
            order[task] = generator(scheme.plan.seed, task, (1,)).permutation(rest)
        return cls(scheme, order)

    def panel(self, stage: float) -> Panel:
        """All documents of the panel and of the extension up to a stage."""
        return self.scheme.panel | Panel(
            {
                task: tuple(sorted(self.scheme.pools[task].positions[p] for p in rest))
                for task in self.order
                if len(rest := self._extra(task, stage))
            }
        )

    def estimate(self, scores: Scores, stage: float) -> dict[str, Estimate]:
        """Objective name -> the metric over all search documents, exact at the last stage."""
        metrics = {m.key: m for o in self.scheme.objectives for m in o.metrics}
        found = {key: self._estimate(scores, m, stage) for key, m in metrics.items()}
        return {o.name: o.combine(found) for o in self.scheme.objectives}

    def standings(self, scores: Sequence[Scores], stage: float) -> list[Standing]:
        """Where each candidate stands: "out" if another is clearly better in every objective, "in"
        if it is clearly better than each other one in some objective, else "open".
        """
        if not scores:
            return []
        better = np.array(
            [[self._clearly(a, b, stage) for b in scores] for a in scores]
        )  # (n, n, n_objectives): candidate a is clearly better than b
        n = len(scores)
        others = ~np.eye(n, dtype=bool)
        out = np.asarray((better.all(axis=2) & others).any(axis=0))
        safe = np.asarray((better.any(axis=2) | ~others | out[None, :]).all(axis=1))
        return ["out" if out[i] else "in" if safe[i] else "open" for i in range(n)]

    def _extra(self, task: str, stage: float) -> Ints:
        rest = self.order[task]
        return rest[: max(min(2, len(rest)), round(stage * len(rest)))]

    def _parts(self, scores: Scores, metric: Metric, stage: float) -> tuple[Floats, Floats]:
        """(2, n) totals and weights on the panel, and (2, m) on the extension."""
        documents = self.scheme.pools[metric.task].documents

        def at(positions: Ints) -> Floats:
            n = len(positions)
            where = Selection(len(documents), positions, np.ones(n), np.zeros(n, dtype=np.int64))
            own = sample(scores, metric, documents, where)
            return np.vstack([own.total, own.weight])

        panel = self.scheme.selections[metric.task].positions
        return at(panel), at(self._extra(metric.task, stage))

    def _estimate(self, scores: Scores, metric: Metric, stage: float) -> Estimate:
        pool, selection = self.scheme.pools[metric.task], self.scheme.selections[metric.task]
        if pool.whole:
            own = sample(scores, metric, pool.documents, selection)
            return mean(own.total, own.weight, metric)
        panel, extra = self._parts(scores, metric, stage)
        total, size = self._sum(panel, extra, metric.task)
        ratio = total / size
        error = self._error(extra[0] - ratio * extra[1], metric.task) / size
        return metric.aggregate(ratio, error, panel.shape[1] + extra.shape[1])

    def _sum(self, panel: Floats, extra: Floats, task: str) -> Floats:
        """(2,) totals and weights over all documents: those outside are scaled up."""
        rest = len(self.order[task])
        scale = rest / extra.shape[1] if rest else 0.0
        return np.asarray(panel.sum(axis=1) + scale * extra.sum(axis=1))

    def _error(self, residual: Floats, task: str) -> float:
        """Standard error of a total whose part on the extension has these residuals."""
        n, rest = len(residual), len(self.order[task])
        if n < 2 or n == rest:
            return 0.0
        return rest * float(np.sqrt(residual.var(ddof=1) * (1 - n / rest) / n))

    def _clearly(self, mine: Scores, theirs: Scores, stage: float) -> list[bool]:
        """For every objective: am I better by more than the error of the difference allows?"""
        return [
            self._advantage(o, mine, theirs, stage) for o in self.scheme.objectives if o.optimized
        ]

    def _advantage(self, objective: Objective, mine: Scores, theirs: Scores, stage: float) -> bool:
        gain = variance = 0.0
        informative = True
        for metric in objective.metrics:
            ours, other = (self._parts(s, metric, stage) for s in (mine, theirs))
            (t1, w1), (t2, w2) = (self._sum(*part, metric.task) for part in (ours, other))
            up = (objective.goal == "maximize") == (metric.link in ("mean", "exact"))
            gain += (t1 / w1 - t2 / w2) * (1 if up else -1)
            residual = (ours[1][0] - t1 / w1 * ours[1][1]) / w1
            residual = residual - (other[1][0] - t2 / w2 * other[1][1]) / w2
            variance += self._error(residual, metric.task) ** 2
            informative &= self._informative(ours[1][0] - other[1][0], metric.task)
        return informative and gain > CLEAR * float(np.sqrt(variance))

    def _informative(self, difference: Floats, task: str) -> bool:
        """Whether enough documents differ for their variance to mean anything, or all were run."""
        if len(difference) == len(self.order[task]):
            return True
        size = np.abs(difference)
        return bool(size.any() and size.sum() ** 2 >= DIFFERING * np.square(size).sum())
