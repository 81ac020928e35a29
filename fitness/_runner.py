"""What runs the models of a search: one lm-eval wrapper, one batch size, one way to generate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length

from fitness._bank import Prepared
from fitness._batch import first_size
from fitness._model import respond


class Runner:
    """Answers requests; what it learns of memory holds for all models that follow."""

    def __init__(
        self, tokenizer: Any, batch_size: int | Literal["auto"], generation_config: Any
    ) -> None:
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._generation_config = generation_config
        self._lm: HFLM | None = None

    def wrap(self, model: Any) -> Any:
        """lm-eval's model around a transformers module; one of lm-eval's own stays as it is."""
        if isinstance(model, TemplateLM):
            return model
        if self._lm is None or self._lm.model is not model:
            self._lm = HFLM(
                pretrained=model,
                backend="causal",
                tokenizer=self.tokenizer,
                batch_size=1,  # set when it is known
                # HFLM's own answer, which it would look up in the config for every request
                max_length=resolve_max_length(model.config, self.tokenizer),
            )
        return self._lm

    def respond(self, lm: Any, documents: Sequence[Prepared]) -> None:
        """Fill the documents' responses, in smaller batches for good when memory runs out.

        Raises:
            FitnessError, ScoringError: see `_model.respond`.
            torch.OutOfMemoryError: even single requests do not fit.
        """
        if not documents:
            return
        if not isinstance(lm, HFLM):  # sees to its batches itself
            respond(lm, documents)
            return
        if self.batch_size == "auto":
            self.batch_size = first_size(lm, documents)
        lm.batch_size_per_gpu = self.batch_size
        with _generating(lm.model, self._generation_config):
            while not _fits(lm, documents):
                self.batch_size = lm.batch_size_per_gpu = lm.batch_size_per_gpu // 2
                torch.cuda.empty_cache()

    def tokens(self, text: str) -> int:
        """How many tokens the text has, without special ones."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _fits(lm: HFLM, documents: Sequence[Prepared]) -> bool:
    try:
        respond(lm, documents)
    except torch.OutOfMemoryError:
        if lm.batch_size_per_gpu == 1:
            raise
        return False
    return True


@contextmanager
def _generating(model: Any, config: Any) -> Iterator[None]:
    own = model.generation_config
    model.generation_config = own if config is None else config
    try:
        yield
    finally:
        model.generation_config = own
