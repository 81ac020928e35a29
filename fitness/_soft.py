"""Measures read from the answers themselves, beside the metrics that a task declares."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs

from fitness._bank import Prepared
from fitness.types import Goal, Metric

Count = Callable[[str], int]  # tokens of a text
Value = Callable[[ConfigurableTask, Prepared, Count], float | None]  # None: no gold answer


@dataclass(frozen=True)
class Soft:
    """A measure that every task of some output types has."""

    name: str
    goal: Goal
    value: Value

    def metric(self, task: str) -> Metric:
        """The measure as a metric of that task."""
        return Metric(task, self.name, self.goal)


def soft_measures(task: ConfigurableTask) -> tuple[Soft, ...]:
    """Measures that the task's output type allows, but those whose name the task itself uses."""
    kind, theirs = task.OUTPUT_TYPE, task.aggregation()
    # a task that judges choices with functions of its own may have no label that can be read
    if kind == "multiple_choice" and not _gold(task, task.task_docs[0], sys.maxsize):
        return ()
    return tuple(m for m in _MEASURES.get(kind, ()) if m.name not in theirs)


def _choice_probability(task: ConfigurableTask, document: Prepared, _: Count) -> float | None:
    """Softmax over the choices' log-likelihoods, summed over the right ones."""
    lls = _choices(task, document)
    gold = _gold(task, document.document, len(lls))
    return math.exp(_log_sum(lls[gold]) - _log_sum(lls)) if gold else None


def _choice_nll(task: ConfigurableTask, document: Prepared, _: Count) -> float | None:
    """Minus the log-likelihood of the right choice; of several, that any of them is the answer."""
    lls = _choices(task, document)
    gold = _gold(task, document.document, len(lls))
    return -_log_sum(lls[gold]) if gold else None


def _target_probability(_: ConfigurableTask, document: Prepared, __: Count) -> float:
    return math.exp(min(_log_likelihood(document), 0.0))


def _target_nll(_: ConfigurableTask, document: Prepared, __: Count) -> float:
    return -_log_likelihood(document)


def _response_length(_: ConfigurableTask, document: Prepared, count: Count) -> float:
    """Mean over repeats; re-tokenised text may come out longer than what was generated."""
    lengths = [
        min(count(text), normalize_gen_kwargs(i.args[1])["max_gen_toks"])
        for i in document.instances
        if i.request_type == "generate_until"  # some tasks ask for log-likelihoods besides
        for text in i.resps
    ]
    return float(np.mean(lengths))


def _choices(task: ConfigurableTask, document: Prepared) -> np.ndarray[Any, Any]:
    """(n_choices,) log-likelihoods; `acc_mutual_info` adds as many without context, left out."""
    lls = [i.resps[0][0] for i in document.instances]
    n = len(lls) // 2 if "acc_mutual_info" in task.aggregation() else len(lls)
    return np.array(lls[:n], dtype=np.float64)


def _gold(task: ConfigurableTask, document: Any, n_choices: int) -> list[int]:
    """Positions of the right choices, as lm-eval finds them; none where the label is missing."""
    # where each choice has a context of its own, lm-eval reads the label in doc_to_text
    read = task.doc_to_text if task.multiple_input else task.doc_to_target
    gold = read(document)
    if isinstance(gold, str):
        choices = task.doc_to_choice(document)
        gold = choices.index(gold) if gold in choices else -1
    several = gold if isinstance(gold, list) else [gold]
    return [i for i in dict.fromkeys(several) if isinstance(i, int) and 0 <= i < n_choices]


def _log_likelihood(document: Prepared) -> float:
    return float(document.instances[0].resps[0][0])


def _log_sum(lls: np.ndarray[Any, Any]) -> float:
    return float(np.logaddexp.reduce(lls))


_MEASURES: dict[str, tuple[Soft, ...]] = {
    "multiple_choice": (
        Soft("probability", "maximize", _choice_probability),
        Soft("nll", "minimize", _choice_nll),
    ),
    "loglikelihood": (
        Soft("probability", "maximize", _target_probability),
        Soft("nll", "minimize", _target_nll),
    ),
    "generate_until": (Soft("response_length", "minimize", _response_length),),
}
