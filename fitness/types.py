"""The words of scoring: estimate, per-document scores, panel, metric and objective (NumPy only)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fitness.errors import FitnessError

Goal = Literal["maximize", "minimize"]
Link = Literal["mean", "exp_neg_mean", "bits", "exact"]
LINKS_OF_ALL: tuple[Link, ...] = get_args(Link)
Split = Literal["search", "report"]


@dataclass(frozen=True)
class HarnessConfig:
    """What a harness scores and how; everything that decides a prompt is fixed here.

    Args:
        tasks: names of lm-eval tasks, groups or tags.
        task_path: folder of the user's own task YAMLs; they win over lm-eval's bundled ones.
        num_fewshot: examples per prompt, except in tasks that say 0; None: what each task says.
        chat_template: auto applies the tokenizer's template when it has one.
        batch_size: sequences per forward pass, sorted by length; auto: chosen once by free memory.
            Halved for good when memory runs out. In low precision a score depends on the batch it
            was computed in, so one search keeps one number.
        max_gen_toks: cap on the tokens a generating task may ask for; None: what the task says.
        allow_unsafe_code: accept tasks that execute what the model writes.
        seed: divides the documents of tasks with a single split.
        backend: what runs the models; vllm needs evoaim's extra of that name.
    """

    tasks: tuple[str, ...]
    task_path: Path | None = None
    num_fewshot: int | None = None
    chat_template: Literal["auto", "yes", "no"] = "auto"
    batch_size: int | Literal["auto"] = 64
    max_gen_toks: int | None = None
    allow_unsafe_code: bool = False
    seed: int = 0
    backend: Literal["transformers", "vllm"] = "transformers"


@dataclass(frozen=True)
class Estimate:
    """What is known of a metric over all documents, from some of them.

    Args:
        value: in the metric's natural unit; what a person is shown.
        stderr: standard error of `value`, same unit.
        rank_value: what candidates of one search are compared by, same unit; None: `value`. It may
            be off by an amount that all of them share, so it says nothing on its own.
        documents: how many were run.
    """

    value: float
    stderr: float
    rank_value: float | None = None
    documents: int = 0

    @property
    def ranked(self) -> float:
        """What selection compares."""
        return self.value if self.rank_value is None else self.rank_value

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of `value`: Student's with `documents` - 1 degrees of freedom."""
        from scipy.special import stdtrit

        wide = 1.96 if self.documents < 2 else float(stdtrit(self.documents - 1, 0.975))
        return self.value - wide * self.stderr, self.value + wide * self.stderr


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """Scores of one task's documents, in panel order: `total[i] / weight[i]` is document i's score.

    Accuracy-like metrics have weight 1. Perplexity-like metrics carry the log-likelihood in
    `total` and the number of words or bytes in `weight`, because perplexities do not average.
    A document for which the task reports no value has total 0 and weight 0.
    """

    documents: tuple[str, ...]  # content hashes
    total: NDArray[np.float64]  # (n_documents,)
    weight: NDArray[np.float64]  # (n_documents,)


Scores = Mapping[str, DocumentScores]  # Metric.key -> scores


@dataclass(frozen=True)
class Panel:
    """The documents that are run to score a candidate: task -> positions in its document set.

    Raises:
        FitnessError: positions of a task are negative, unsorted or repeated.
    """

    documents: Mapping[str, tuple[int, ...]]  # sorted and unique

    def __post_init__(self) -> None:
        for task, positions in self.documents.items():
            if list(positions) != sorted(set(positions)) or any(p < 0 for p in positions):
                raise FitnessError(
                    f"panel of task '{task}': positions must be sorted, unique and not negative, "
                    f"got {positions}"
                )

    def __or__(self, other: "Panel") -> "Panel":
        """The union, task by task."""
        tasks = {*self.documents, *other.documents}
        return Panel(
            {
                t: tuple(sorted({*self.documents.get(t, ()), *other.documents.get(t, ())}))
                for t in sorted(tasks)
            }
        )

    def __len__(self) -> int:
        return sum(map(len, self.documents.values()))


@dataclass(frozen=True)
class Metric:
    """One per-document metric of one task, as lm-eval names it, and how documents aggregate."""

    task: str
    name: str  # "acc"; with its filter, "exact_match,strict-match", where the task has several
    goal: Goal
    link: Link = "mean"

    @property
    def key(self) -> str:
        """The key of this metric's scores in `Scores`."""
        return f"{self.task}/{self.name}"

    def aggregate(self, ratio: float, stderr: float, documents: int = 0) -> Estimate:
        """From total/weight over all documents and its standard error to the metric's unit."""
        if self.link == "exp_neg_mean":
            value = math.exp(min(-ratio, 700.0))
            return Estimate(value, value * stderr, None, documents)  # delta method
        if self.link == "bits":
            return Estimate(-ratio / math.log(2), stderr / math.log(2), None, documents)
        if self.link == "exact":  # a property of the weights: no sample, no error
            return Estimate(ratio, 0.0, None, documents)
        return Estimate(ratio, stderr, None, documents)


@dataclass(frozen=True)
class Objective:
    """A named number to maximize or minimize: the unweighted mean over its tasks' estimates."""

    name: str
    goal: Goal
    metrics: tuple[Metric, ...]
    optimized: bool = True  # False: measured and shown, perhaps constrained

    def combine(self, estimates: Mapping[str, Estimate]) -> Estimate:
        """The objective's estimate from its metrics' estimates, by `Metric.key`."""
        parts = [estimates[m.key] for m in self.metrics]
        n = len(parts)
        ranked = [p.ranked for p in parts] if any(p.rank_value is not None for p in parts) else []
        return Estimate(
            sum(p.value for p in parts) / n,
            math.sqrt(sum(p.stderr**2 for p in parts)) / n,
            sum(ranked) / n if ranked else None,
            sum(p.documents for p in parts),
        )

    def loss(self, value: float) -> float:
        """Lower is better: the only place where a sign flips."""
        return value if self.goal == "minimize" else -value
