"""The requests of a document set, built at first use and kept, so that prompts never drift."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED

from fitness._guard import reseed
from fitness._splits import DocumentSet
from fitness._tasks import TASK_ERRORS, cause
from fitness.errors import FitnessError

Chat = Callable[..., str]  # renders a list of messages


@dataclass(frozen=True, eq=False)
class Prepared:
    """One document with its requests, and for each what the model needs (see `_model.encode`)."""

    document: Any
    instances: list[Instance]  # by idx
    tokens: list[Any]


class Bank:
    """Builds the requests of a document exactly as a full run of lm-eval on its split would."""

    def __init__(self, task: ConfigurableTask, documents: DocumentSet) -> None:
        """Fix the few-shot draws.

        Raises:
            FitnessError: the task has too few few-shot documents.
        """
        self.task = task
        self.documents = documents
        self._shots = _Shots(task, documents)
        self._prepared: dict[int, Prepared] = {}

    def prepare(
        self, position: int, encode: Callable[[Instance], Any], chat: Chat | None
    ) -> Prepared:
        """The document at `position` of the set, with its requests.

        Raises:
            FitnessError: the task's templates or functions fail on the document.
        """
        if position not in self._prepared:
            try:
                self._prepared[position] = self._build(
                    self.documents.positions[position], encode, chat
                )
            except FitnessError:
                raise
            except TASK_ERRORS as error:
                raise FitnessError(
                    f"task '{self.task.task_name}': no prompt for document "
                    f"{self.documents.positions[position]} of split '{self.documents.split}': "
                    f"{cause(error)}"
                ) from error
        return self._prepared[position]

    def _build(self, at: int, encode: Callable[[Instance], Any], chat: Chat | None) -> Prepared:
        task, document = self.task, self.documents.source[at]
        reseed(at, at)  # a template that draws at random draws the same, whatever was built before
        original, task.sampler = getattr(task, "sampler", None), self._shots.before(at)
        try:
            context = task.fewshot_context(
                document,
                num_fewshot=task.config.num_fewshot,
                system_instruction=None,
                apply_chat_template=chat is not None,
                fewshot_as_multiturn=True,
                chat_template=chat,
                gen_prefix=task.doc_to_prefix(document),
            )
        finally:
            task.sampler = original
        built = task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(task.config.task, at, task.config.repeats),
            apply_chat_template=chat is not None,
            chat_template=chat,
        )
        instances = sorted(built if isinstance(built, list) else [built], key=lambda i: i.idx)
        return Prepared(document, instances, [encode(i) for i in instances])


@dataclass(frozen=True)
class _Drawn:
    """Stands in for lm-eval's sampler while one prompt is built."""

    examples: Sequence[Any]

    def sample(self, n: int, eval_doc: Any = None) -> Sequence[Any]:  # noqa: ARG002
        return self.examples


class _Shots:
    """Few-shot examples by position in the split.

    lm-eval's default sampler moves on with every document it has served, so what a document gets
    depends on those before it. Replaying the draws of the whole split gives every document the
    examples that it has in a full run, whichever panel it is in.
    """

    def __init__(self, task: ConfigurableTask, documents: DocumentSet) -> None:
        self._n = int(task.config.num_fewshot)
        self._source = documents.source
        self._examples: list[Sequence[Any]] = []
        if self._n == 0:
            return
        self._sampler = copy.copy(getattr(task, "sampler", ContextSampler()))
        self._sampler.set_rnd(DEFAULT_OTHER_SEED)
        # lm-eval leaves the document itself out only where these two names are equal
        theirs = task.fewshot_cfg.split == task.config.test_split
        own = _fewshot_split(task) == documents.split
        self._leave_out = own or theirs
        self._moves = not isinstance(self._sampler, FirstNSampler)
        available = len(self._sampler.fewshot_docs()) - (own or (theirs and self._moves))
        if available < self._n:
            raise FitnessError(
                f"task '{task.task_name}': {self._n} few-shot examples asked for, {available} "
                "documents to draw them from"
            )

    def before(self, at: int) -> _Drawn:
        """The examples of the document at position `at` of the split."""
        if self._n == 0:
            return _Drawn(())
        if not self._moves:
            return _Drawn(self._draw(at))
        while len(self._examples) <= at:
            self._examples.append(self._draw(len(self._examples)))
        return _Drawn(self._examples[at])

    def _draw(self, at: int) -> Sequence[Any]:
        document = self._source[at] if self._leave_out else None
        drawn: Sequence[Any] = self._sampler.sample(n=self._n, eval_doc=document)
        return drawn


def _fewshot_split(task: ConfigurableTask) -> str | None:
    """The split that examples come from; None if they are written in the task."""
    config = task.fewshot_cfg
    if config.split is not None or config.samples is not None:
        return None if config.split is None else str(config.split)
    for kind in ("training", "validation", "test"):
        if getattr(task, f"has_{kind}_docs")():
            return str(getattr(task.config, f"{kind}_split") or kind)
    return None
