"""Scores live models on lm-eval tasks: tasks, prompts and tokens are built once, then reused."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length

from fitness._bank import Bank, Prepared
from fitness._guard import undisturbed
from fitness._metrics import Measure, find, measures
from fitness._model import encode, respond
from fitness._splits import document_sets, refuse_overlap
from fitness._tasks import TASK_ERRORS, cause, load_tasks
from fitness.errors import FitnessError, ScoringError, unknown
from fitness.types import DocumentScores, HarnessConfig, Metric, Panel, Scores, Split

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Harness:
    """The tasks of a search, ready to score any number of models that share a tokenizer.

    A call leaves the process as it was: global random states, loggers, progress bars. Prompts,
    few-shot examples and numbers are those of lm-eval's `simple_evaluate` on the same split, but
    that no document is ever its own few-shot example (lm-eval overlooks some cases).
    """

    def __init__(
        self,
        leaves: Mapping[str, tuple[str, ...]],
        banks: Mapping[str, Mapping[Split, Bank]],
        tokenizer: Any,
        batch_size: int,
        chat: bool,
    ) -> None:
        self._leaves = leaves
        self._banks = banks
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._chat = chat
        self._lm: HFLM | None = None

    @classmethod
    def load(cls, config: HarnessConfig, tokenizer: Any) -> "Harness":
        """Load the tasks and their documents.

        Args:
            config: what to load.
            tokenizer: a transformers tokenizer; a copy is kept.

        Raises:
            FitnessError: unknown task, data set that cannot be loaded, search and report documents
                that overlap, code-executing task that is not allowed, too few few-shot documents,
                tokenizer without chat template where one is asked for, or without BOS and EOS.
        """
        chat = config.chat_template == "yes" or (
            config.chat_template == "auto" and tokenizer.chat_template is not None
        )
        if chat and tokenizer.chat_template is None:
            raise FitnessError("chat_template: yes, but the tokenizer has no chat template")
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise FitnessError(
                "the tokenizer has neither a BOS nor an EOS token; lm-eval needs one to start texts"
            )
        with undisturbed():
            loaded = load_tasks(config.tasks, config.task_path, config.allow_unsafe_code)
            tasks = {leaf: task for group in loaded.values() for leaf, task in group.items()}
            for task in tasks.values():
                _configure(task, config)
            sets = {name: document_sets(task, config.seed) for name, task in tasks.items()}
            refuse_overlap(sets)
            banks = {
                name: {split: Bank(tasks[name], documents) for split, documents in both.items()}
                for name, both in sets.items()
            }
        leaves = {name: tuple(group) for name, group in loaded.items()}
        return cls(leaves, banks, copy.deepcopy(tokenizer), config.batch_size, chat)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The leaf tasks."""
        return tuple(self._banks)

    @property
    def chat(self) -> bool:
        """Whether prompts go through the tokenizer's chat template."""
        return self._chat

    def leaves(self, name: str) -> tuple[str, ...]:
        """The leaf tasks behind a name of the config (or a leaf task's own name).

        Raises:
            FitnessError: the name was not loaded.
        """
        if name in self._leaves:
            return self._leaves[name]
        self._task(name)
        return (name,)

    def documents(self, task: str, split: Split) -> tuple[str, ...]:
        """Content hashes of the task's documents, in the order that panels count in.

        Raises:
            FitnessError: unknown task.
        """
        self._task(task)
        return self._banks[task][split].documents.hashes

    def definition(self, task: str) -> dict[str, Any]:
        """What the task's prompts and scores depend on, besides its documents.

        Raises:
            FitnessError: unknown task.
        """
        config = dict(self._task(task).dump_config())
        for place in ("dataset_path", "dataset_kwargs", "metadata"):
            config.pop(place, None)
        return config

    def sizes(self, split: Split) -> dict[str, int]:
        """Leaf task -> number of documents."""
        return {task: len(self.documents(task, split)) for task in self.tasks}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """The task's metrics that can be estimated from some of its documents.

        Raises:
            FitnessError: unknown task.
        """
        return tuple(m.metric for m in measures(self._task(task)))

    def metric(self, task: str, name: str | None = None) -> Metric:
        """The named metric (`acc`, `exact_match,strict-match`); None: the task's first.

        Raises:
            FitnessError: unknown task or metric, or one that is no sum over documents.
        """
        return find(self._task(task), name)

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """Run the panel's documents and return all metrics of its tasks, by `Metric.key`.

        When memory runs out, the batch size is halved for this and all later calls.

        Args:
            model: a live transformers causal language model on its device.
            panel: positions in `documents(task, split)`.
            split: which documents.

        Raises:
            FitnessError: the panel does not fit, or a document cannot be made a prompt.
            ScoringError: the model's answers are not finite.
            torch.OutOfMemoryError: even single documents do not fit.
        """
        self._check(panel, split)
        banks = {task: self._banks[task][split] for task in panel.documents}
        with undisturbed():
            lm = self._wrap(model)
            chat = lm.apply_chat_template if self._chat else None
            prepared = {
                task: [bank.prepare(p, partial(encode, lm), chat) for p in panel.documents[task]]
                for task, bank in banks.items()
            }
            while not self._fits(lm, [d for documents in prepared.values() for d in documents]):
                self._batch_size //= 2
                lm.batch_size_per_gpu = self._batch_size
                torch.cuda.empty_cache()
            scores: dict[str, DocumentScores] = {}
            for task, documents in prepared.items():
                hashes = tuple(banks[task].documents.hashes[p] for p in panel.documents[task])
                scores |= _scores(banks[task].task, documents, hashes)
        return scores

    def _fits(self, lm: HFLM, documents: list[Prepared]) -> bool:
        try:
            respond(lm, documents)
        except torch.OutOfMemoryError:
            if self._batch_size == 1:
                raise
            return False
        return True

    def _wrap(self, model: Any) -> HFLM:
        if self._lm is None or self._lm.model is not model:
            self._lm = HFLM(
                pretrained=model,
                backend="causal",
                tokenizer=self._tokenizer,
                batch_size=self._batch_size,
                # HFLM's own answer, which it would look up in the config for every request
                max_length=resolve_max_length(model.config, self._tokenizer),
            )
        return self._lm

    def _task(self, name: str) -> ConfigurableTask:
        if name not in self._banks:
            raise FitnessError(unknown("task", name, self._banks))
        return self._banks[name]["report"].task

    def _check(self, panel: Panel, split: Split) -> None:
        for task, positions in panel.documents.items():
            available = len(self.documents(task, split))
            if positions and positions[-1] >= available:
                raise FitnessError(
                    f"panel of task '{task}': document {positions[-1]} asked for, the {split} set "
                    f"has {available} (0 to {available - 1})"
                )


def _configure(task: ConfigurableTask, config: HarnessConfig) -> None:
    # the rules of simple_evaluate: a task that says 0 examples keeps 0, one that says nothing has 0
    own = task.config.num_fewshot
    if own is None or (own != 0 and config.num_fewshot is not None):
        task.set_config("num_fewshot", config.num_fewshot or 0)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    options = task.config.generation_kwargs
    if config.max_gen_toks is not None and options is not None:
        asked = next((options[k] for k in _LENGTHS if k in options), config.max_gen_toks)
        kept = {k: v for k, v in options.items() if k not in _LENGTHS}
        kept["max_gen_toks"] = min(int(asked), config.max_gen_toks)
        task.set_config("generation_kwargs", kept)


def _scores(
    task: ConfigurableTask, documents: list[Prepared], hashes: tuple[str, ...]
) -> dict[str, DocumentScores]:
    instances = [i for d in documents for i in d.instances]
    results: dict[str, list[dict[str, Any]]] = {}
    for ensemble in task._filters if instances else ():
        ensemble.apply(instances)
        results[ensemble.name] = [_results(task, d, ensemble.name) for d in documents]
    scores = {}
    for measure in measures(task):
        table = _table(measure, results.get(measure.filter, []))
        if table is not None:
            scores[measure.metric.key] = DocumentScores(hashes, table[:, 0], table[:, 1])
    return scores


def _results(task: ConfigurableTask, document: Prepared, filtered: str) -> dict[str, Any]:
    answers = [i.filtered_resps[filtered] for i in document.instances]
    try:
        results: dict[str, Any] = task.process_results(copy.copy(document.document), answers)
    except TASK_ERRORS as error:
        raise ScoringError(
            f"task '{task.task_name}' cannot judge the answer {answers}: {cause(error)}"
        ) from error
    return results


def _table(measure: Measure, results: list[dict[str, Any]]) -> np.ndarray[Any, Any] | None:
    """(n_documents, 2) totals and weights; None if a value is not one number a document."""
    pairs = [measure.read(r[measure.name]) if measure.name in r else (0.0, 0.0) for r in results]
    if any(pair is None for pair in pairs):
        return None
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(table).all():
        raise ScoringError(f"metric {measure.metric.key} is not finite on some documents")
    return table
