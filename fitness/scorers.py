"""Several scorers behind one: what a scorer is, and which of them knows a task."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

from fitness.errors import FitnessError, unknown
from fitness.types import DocumentScores, Metric, Panel, Scores, Split


class Scorer(Protocol):
    """What can score a live model on the documents of its tasks."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The leaf tasks."""
        ...

    def leaves(self, name: str) -> tuple[str, ...]:
        """The leaf tasks behind a name."""
        ...

    def documents(self, task: str, split: Split) -> tuple[str, ...]:
        """Content hashes of the task's documents, in the order that panels count in."""
        ...

    def sizes(self, split: Split) -> dict[str, int]:
        """Leaf task -> number of documents."""
        ...

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """The metrics of a leaf task."""
        ...

    def metric(self, task: str, name: str | None = None) -> Metric:
        """The named metric of a leaf task; None: its first."""
        ...

    def definition(self, task: str) -> dict[str, Any]:
        """What the task's scores depend on, besides its documents."""
        ...

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """Run the panel's documents and return all metrics of its tasks, by `Metric.key`."""
        ...


@runtime_checkable
class Renewable(Protocol):
    """A scorer that keeps a copy of the model's weights."""

    def renew(self, model: Any) -> None:
        """The live model has new weights."""
        ...


@runtime_checkable
class Labelled(Protocol):
    """A scorer whose documents have fields."""

    def labels(self, task: str, split: Split, field: str) -> tuple[str, ...]:
        """The value of a field, for every document, as text."""
        ...


class Scorers:
    """Scorers that share a live model, as one `Scorer`; each keeps its tasks.

    Errors are those of the scorer that knows the task; a name that none knows is a FitnessError.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        """Route by the names of leaf tasks.

        Raises:
            FitnessError: a task that two scorers know.
        """
        self._scorers = tuple(scorers)
        self._home: dict[str, Scorer] = {}
        for scorer in self._scorers:
            for task in scorer.tasks:
                if task in self._home:
                    raise FitnessError(
                        f"'{task}' is the name of two things that are scored, a task and a text; "
                        f"write the text's path in another way, such as './{task}'"
                    )
                self._home[task] = scorer

    @property
    def tasks(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return tuple(self._home)

    def leaves(self, name: str) -> tuple[str, ...]:
        """See `Scorer`; also the names of groups, which their scorer alone knows."""
        for scorer in (self._home[name],) if name in self._home else self._scorers:
            with suppress(FitnessError):
                return scorer.leaves(name)
        raise FitnessError(unknown("task", name, self._home))

    def documents(self, task: str, split: Split) -> tuple[str, ...]:
        """See `Scorer`."""
        return self._of(task).documents(task, split)

    def sizes(self, split: Split) -> dict[str, int]:
        """See `Scorer`."""
        return {task: n for s in self._scorers for task, n in s.sizes(split).items()}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """See `Scorer`."""
        return self._of(task).metrics(task)

    def metric(self, task: str, name: str | None = None) -> Metric:
        """See `Scorer`."""
        return self._of(task).metric(task, name)

    def definition(self, task: str) -> dict[str, Any]:
        """See `Scorer`."""
        return self._of(task).definition(task)

    def labels(self, task: str, split: Split, field: str) -> tuple[str, ...]:
        """The value of a field of the task's documents; only lm-eval's documents have fields."""
        scorer = self._of(task)
        assert isinstance(scorer, Labelled), f"{task} has no fields"
        return scorer.labels(task, split, field)

    def renew(self, model: Any) -> None:
        """The live model has new weights."""
        for scorer in self._scorers:
            if isinstance(scorer, Renewable):
                scorer.renew(model)

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """See `Scorer`; a scorer without documents in the panel is not asked."""
        homes = {task: self._of(task) for task in panel.documents}
        scores: dict[str, DocumentScores] = {}
        for scorer in self._scorers:
            own = {t: p for t, p in panel.documents.items() if homes[t] is scorer}
            if own:
                scores |= scorer.score(model, Panel(own), split)
        return scores

    def _of(self, task: str) -> Scorer:
        if task not in self._home:
            raise FitnessError(unknown("task", task, self._home))
        return self._home[task]


def known_metric(scorer: Scorer, task: str, name: str | None) -> Metric:
    """The named one of `scorer.metrics(task)`; None: the first.

    Raises:
        FitnessError: unknown task or metric.
    """
    metrics = scorer.metrics(task)
    for metric in metrics:
        if name in {None, metric.name}:
            return metric
    raise FitnessError(f"task '{task}': {unknown('metric', str(name), [m.name for m in metrics])}")


def check_panel(scorer: Scorer, panel: Panel, split: Split) -> None:
    """Check that the scorer has the documents of a panel.

    Raises:
        FitnessError: unknown task, or a position beyond its documents.
    """
    for task, positions in panel.documents.items():
        available = len(scorer.documents(task, split))
        if positions and positions[-1] >= available:
            raise FitnessError(
                f"panel of task '{task}': document {positions[-1]} asked for, the {split} set "
                f"has {available} (0 to {available - 1})"
            )
