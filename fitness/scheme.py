"""The scheme of one search: which documents candidates run, in which order, and what follows.

It is fixed before the first candidate, from the models that were scored in full by then, so that
all candidates are compared on the same documents by the same rule. Only what a person is shown (the
estimators) is fitted again when promoted candidates have joined those models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.estimators.sample_mean import mean
from fitness.panel import generator
from fitness.racing import documents
from fitness.ranking import Ruler, ruler
from fitness.responses import references, sample
from fitness.samples import (
    Population,
    Sample,
    Selection,
    Setting,
    everything,
    no_references,
)
from fitness.types import Estimate, Metric, Objective, Panel, Scores

UNBOUNDED = ("nll", "response_length")  # of our own metrics that are means, those beyond [0, 1]


@dataclass(frozen=True)
class Plan:
    """How a scheme is made: a selector and an estimator with their options.

    Args:
        selector: a module of `fitness.selectors`, with its `Params`.
        estimator: a module of `fitness.estimators`, with its `Params`.
        looks: shares of the panel after which a candidate may be dropped, ascending, the last 1.
        seed: of the draws.
    """

    selector: tuple[Any, Any]
    estimator: tuple[Any, Any]
    looks: tuple[float, ...] = (1.0,)
    seed: int = 0

    @property
    def needs_references(self) -> bool:
        """Whether models must be scored on all documents first."""
        return bool(self.selector[0].REFERENCES or self.estimator[0].REFERENCES)


@dataclass(frozen=True, eq=False)
class Pool:
    """The search documents of one task, all of them or those that the user lets a search have.

    Args:
        positions: (N,) in the scorer's document set.
        documents: (N,) their content hashes.
        whole: run them all for every candidate (a text file, the weights).
        labels: (N,) strata; None if the selector asks for none.
    """

    positions: tuple[int, ...]
    documents: tuple[str, ...]
    whole: bool = False
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Scheme:
    """What every candidate of a search is put through."""

    plan: Plan
    objectives: tuple[Objective, ...]
    pools: Mapping[str, Pool]  # by task
    selections: Mapping[str, Selection]
    rulers: Mapping[str, Ruler]  # by Metric.key
    fitted: Mapping[str, Fitted]  # by Metric.key

    @property
    def panel(self) -> Panel:
        """All documents that a candidate runs unless it is dropped."""
        return self._panel({task: (0, len(s)) for task, s in self.selections.items()})

    def blocks(self) -> tuple[Panel, ...]:
        """The panel's documents from one look to the next."""
        ends = [{t: self._seen(t, look) for t in self.pools} for look in self.plan.looks]
        starts = [dict.fromkeys(self.pools, 0), *ends]
        return tuple(
            self._panel({t: (start[t], end[t]) for t in self.pools})
            for start, end in zip(starts, ends, strict=False)
        )

    def estimate(self, scores: Scores, look: float = 1.0) -> dict[str, Estimate]:
        """Objective name -> estimate from the documents up to a look.

        Raises:
            FitnessError: the scores lack one of them, or too few carry a value.
        """
        found = {m.key: self._estimate(scores, m, look) for m in self._metrics()}
        return {o.name: o.combine(found) for o in self.objectives}

    def documents_at(self, look: float) -> int:
        """How many documents a candidate has run by a look."""
        return sum(self._seen(task, look) for task in self.pools)

    def sample(self, scores: Scores, metric: Metric, look: float = 1.0) -> Sample:
        """A model's scores on the documents up to a look.

        Raises:
            FitnessError: the scores lack one of them.
        """
        selection = self.selections[metric.task].first(self._seen(metric.task, look))
        return sample(scores, metric, self.pools[metric.task].documents, selection)

    def comparing(self) -> "Scheme":
        """The same without its estimators: all that comparing takes, fit to be sent elsewhere."""
        plan = replace(self.plan, selector=(None, None), estimator=(None, None))
        return replace(self, plan=plan, fitted={})

    def refitted(self, models: Mapping[str, Scores], parents: int) -> "Scheme":
        """The same panel and comparison, with estimators that know these fully scored models."""
        return replace(self, fitted=self._fit(models, parents))

    def _fit(self, models: Mapping[str, Scores], parents: int) -> dict[str, Fitted]:
        module, params = self.plan.estimator
        return {
            m.key: module.fit(self._setting(m, models, parents), params)
            for m in self._metrics()
            if not self.pools[m.task].whole
        }

    def _setting(self, metric: Metric, models: Mapping[str, Scores], parents: int) -> Setting:
        documents = self.pools[metric.task].documents
        known = references(models, parents, metric, documents)
        return Setting(metric, self.selections[metric.task], known)

    def _metrics(self) -> list[Metric]:
        return list({m.key: m for o in self.objectives for m in o.metrics}.values())

    def _seen(self, task: str, look: float) -> int:
        n = len(self.selections[task])
        return n if self.pools[task].whole else max(min(2, n), documents((look,), n)[0])

    def _panel(self, part: Mapping[str, tuple[int, int]]) -> Panel:
        return Panel(
            {
                task: tuple(
                    sorted(
                        self.pools[task].positions[p]
                        for p in self.selections[task].positions[start:end]
                    )
                )
                for task, (start, end) in part.items()
                if end > start
            }
        )

    def _estimate(self, scores: Scores, metric: Metric, look: float) -> Estimate:
        own = self.sample(scores, metric, look)
        if self.pools[metric.task].whole:
            return mean(own.total, own.weight, metric)
        found = self.fitted[metric.key](own)
        if self.plan.estimator[0].RANK == "value":
            return found
        return replace(found, rank_value=self.rulers[metric.key].value(own))


def build(
    objectives: Sequence[Objective],
    pools: Mapping[str, Pool],
    models: Mapping[str, Scores],
    parents: int,
    plan: Plan,
) -> Scheme:
    """Choose the panel and fit everything.

    Args:
        objectives: all that is scored.
        pools: the search documents of their tasks.
        models: name -> scores of models that were scored in full, base and experts first.
        parents: how many of them are base and experts.
        plan: how.

    Raises:
        FitnessError: too few documents, or too few models for the selector or the estimator.
    """
    first = {m.task: m for o in reversed(objectives) for m in reversed(o.metrics)}
    if plan.needs_references:
        _check_references(plan, len(models), parents)
    selections = {}
    for task, pool in pools.items():
        known = references(models, parents, first[task], pool.documents)
        if pool.whole:
            selections[task] = everything(len(pool.positions))
            continue
        population = Population(len(pool.positions), known, pool.labels)
        n = _count(task, len(pool.positions), plan)
        selections[task] = _select(task, n, population, plan)
    scheme = Scheme(plan, tuple(objectives), pools, selections, {}, {})
    rulers = {m.key: ruler(scheme._setting(m, models, parents)) for m in scheme._metrics()}
    scheme = replace(scheme, rulers=rulers)
    return scheme.refitted(models, parents)


def check(
    objectives: Sequence[Objective],
    pools: Mapping[str, Pool],
    plan: Plan,
    parents: int,
    others: int,
) -> None:
    """Refuse what `build` would refuse, before any model was scored.

    Args:
        objectives: all that is scored.
        pools: the search documents by task.
        plan: how the scheme will be made.
        parents: base and experts, which will be scored in full if the plan needs it.
        others: models that were scored in full before.

    Raises:
        FitnessError: too few documents, too few models, or a metric that the estimator cannot
            estimate.
    """
    for metric in (m for o in objectives for m in o.metrics):
        module = plan.estimator[0]
        unfit = metric.link not in module.LINKS or (
            module.LINKS == ("mean",) and metric.name in UNBOUNDED
        )
        if not pools[metric.task].whole and unfit:
            name = module.__name__.rpartition(".")[2]
            raise FitnessError(
                f"estimator '{name}': {metric.key} is no mean of scores in [0, 1]; take greg, "
                "or another metric"
            )
    _check_references(plan, parents + others, parents)
    for task, pool in pools.items():
        if not pool.whole:
            n = _count(task, len(pool.positions), plan)
            population = Population(len(pool.positions), no_references(n), pool.labels)
            if plan.selector[0].REFERENCES == 0:
                _select(task, n, population, plan)


def _count(task: str, size: int, plan: Plan) -> int:
    """Documents of a task that a candidate runs."""
    documents = plan.estimator[1].documents
    if documents is not None and documents > size:
        raise FitnessError(
            f"task '{task}': {documents} documents asked for, {size} available; "
            f"ask for at most {size}, or for all of them (documents: null)"
        )
    return size if documents is None else int(documents)


def _select(task: str, n: int, population: Population, plan: Plan) -> Selection:
    module, params = plan.selector
    try:
        found: Selection = module.select(population, n, params, generator(plan.seed, task))
    except FitnessError as error:
        raise FitnessError(f"task '{task}': {error}") from None
    return found


def _check_references(plan: Plan, known: int, parents: int) -> None:
    for what, module in (("panel", plan.selector[0]), ("estimator", plan.estimator[0])):
        if known < module.REFERENCES:
            name = module.__name__.rpartition(".")[2]
            other = "disagreement" if what == "panel" else "greg"
            raise FitnessError(
                f"{what} '{name}' needs {module.REFERENCES} models that were scored on all search "
                f"documents, the search has {known} ({parents} of them base and experts); take "
                f"{other}, or name earlier runs of the same tasks under responses:"
            )
