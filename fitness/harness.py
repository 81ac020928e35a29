"""Scores live models on lm-eval tasks: tasks, prompts and tokens are built once, then reused."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED

from fitness._bank import Bank
from fitness._guard import undisturbed
from fitness._metrics import every_metric, find
from fitness._model import encode
from fitness._runner import Runner
from fitness._scoring import tabulate
from fitness._splits import document_sets, refuse_overlap
from fitness._swap import Named, SwappableEngine
from fitness._tasks import load_tasks
from fitness._vllm import require_vllm
from fitness.errors import FitnessError, unknown
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
        runner: Runner,
        chat: bool,
    ) -> None:
        self._leaves = leaves
        self._banks = banks
        self._runner = runner
        self._chat = chat
        self._served: tuple[SwappableEngine, Callable[[Any], Named]] | None = None

    @classmethod
    def load(
        cls, config: HarnessConfig, tokenizer: Any, generation_config: Any = None
    ) -> "Harness":
        """Load the tasks and their documents.

        Args:
            config: what to load.
            tokenizer: a transformers tokenizer; a copy is kept.
            generation_config: the base's, which every model then generates by, because what a task
                leaves open (a repetition penalty) comes from there; None: each model's own.

        Raises:
            FitnessError: unknown task, data set that cannot be loaded, search and report documents
                that overlap, code-executing task that is not allowed, too few few-shot documents,
                tokenizer without chat template where one is asked for, or without BOS and EOS,
                vLLM asked for and not installed.
        """
        if config.backend == "vllm":
            require_vllm()
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
        runner = Runner(copy.deepcopy(tokenizer), config.batch_size, generation_config)
        return cls(leaves, banks, runner, chat)

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

    def labels(self, task: str, split: Split, field: str) -> tuple[str, ...]:
        """What a field of each document says, as text, in the order of `documents`.

        Raises:
            FitnessError: unknown task, or a document without that field.
        """
        self._task(task)
        documents = self._banks[task][split].documents
        chosen = [documents.source[p] for p in documents.positions]
        for document in chosen:
            if field not in document:
                raise FitnessError(f"task '{task}': {unknown('document field', field, document)}")
        return tuple(str(document[field]) for document in chosen)

    def definition(self, task: str) -> dict[str, Any]:
        """What the task's prompts and scores depend on, besides its documents.

        Raises:
            FitnessError: unknown task.
        """
        config = dict(self._task(task).dump_config())
        for place in ("dataset_path", "dataset_kwargs", "metadata"):
            config.pop(place, None)
        return {**config, "chat": self._chat}

    def sizes(self, split: Split) -> dict[str, int]:
        """Leaf task -> number of documents."""
        return {task: len(self.documents(task, split)) for task in self.tasks}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """The task's metrics that can be estimated from some of its documents, then our own.

        Our own, read from the same answers, and only where the task has none of that name:
        `probability` of the right answer in [0, 1] and `nll`, its negative logarithm in nats per
        document (choices: `probability` is a softmax over them, `nll` is not), and
        `response_length`, the mean number of tokens generated, stop sequence excluded.

        Raises:
            FitnessError: unknown task.
        """
        with undisturbed():
            return every_metric(self._task(task))

    def metric(self, task: str, name: str | None = None) -> Metric:
        """The named metric (`acc`, `exact_match,strict-match`); None: the task's first.

        Raises:
            FitnessError: unknown task or metric, or one that is no sum over documents.
        """
        with undisturbed():  # reading a label may run a function of the task
            return find(self._task(task), name)

    def serve(self, engine: SwappableEngine, tensors: Callable[[Any], Named]) -> None:
        """From now on, answer by an engine that is given a model's weights (see `renew`).

        Args:
            engine: see `_vllm.open_engine`.
            tensors: all of a live model's, by their names in the base's checkpoint.
        """
        self._served = engine, tensors

    def renew(self, model: Any) -> None:
        """The model has new weights: bring them into the engine, if there is one.

        Raises:
            FitnessError, ScoringError: see `SwappableEngine.update`.
        """
        if self._served is not None:
            engine, tensors = self._served
            engine.update(tensors(model))

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """Run the panel's documents and return all metrics of its tasks, by `Metric.key`.

        When memory runs out, the batch size is halved for this and all later calls.

        Args:
            model: a live transformers causal language model on its device, or a model of lm-eval's
                own (`_vllm.open_engine(...).lm`), which then sees to batches and generation itself.
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
            lm = self._runner.wrap(model if self._served is None else self._served[0].lm)
            chat = lm.apply_chat_template if self._chat else None
            prepared = {
                task: [bank.prepare(p, partial(encode, lm), chat) for p in panel.documents[task]]
                for task, bank in banks.items()
            }
            self._runner.respond(lm, [d for own in prepared.values() for d in own])
            scores: dict[str, DocumentScores] = {}
            for task, documents in prepared.items():
                hashes = tuple(banks[task].documents.hashes[p] for p in panel.documents[task])
                scores |= tabulate(banks[task].task, documents, hashes, self._runner.tokens)
        return scores

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
