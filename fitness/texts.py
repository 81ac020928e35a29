"""Scores live models on plain texts: perplexity, and divergence from the base's predictions."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows

from fitness._guard import undisturbed
from fitness._splits import DocumentSet
from fitness._text_files import divided
from fitness._windows import TOP_K, Batches, Window, likelihoods, references
from fitness.errors import FitnessError, ScoringError, unknown
from fitness.scorers import check_panel, known_metric
from fitness.types import DocumentScores, Link, Metric, Panel, Scores, Split

KL = "kl_to_base"
_LINKS: dict[str, Link] = {
    "perplexity": "exp_neg_mean",  # per token
    "nll": "mean",  # nats per token
    "bits_per_byte": "bits",
    KL: "mean",  # nats per token
}


@dataclass(frozen=True)
class TextConfig:
    """What texts are scored and how.

    Args:
        files: paths as the user wrote them; the names of the tasks.
        batch_size: windows per forward pass; fewer where they are long, or memory runs out.
        context: tokens that one window holds; None: as many as the model has positions.
        seed: divides the documents; the one of `HarnessConfig`.
    """

    files: tuple[str, ...]
    batch_size: int = 64
    context: int | None = None
    seed: int = 0


class TextHarness:
    """Text files as tasks, ready to score any number of models that share a tokenizer.

    A document's log-likelihood is lm-eval's `loglikelihood_rolling`: all of its tokens are
    predicted, the first from BOS (else EOS); a document that is longer than the context is cut into
    windows that overlap by one token. Documents are divided by content into search and report
    halves, so that equal ones of any file fall on the same side.
    """

    def __init__(
        self, sets: Mapping[str, Mapping[Split, DocumentSet]], tokenizer: Any, config: TextConfig
    ) -> None:
        self._sets = sets
        self._tokenizer = tokenizer
        self._config = config
        self._batches = Batches(config.batch_size)
        self._windows: dict[str, tuple[Window, ...]] = {}  # by content hash, at first use

    @classmethod
    def load(cls, config: TextConfig, tokenizer: Any) -> "TextHarness":
        """Read the files.

        Args:
            config: what to read.
            tokenizer: a transformers tokenizer; a copy is kept.

        Raises:
            FitnessError: a file that cannot be read or divided, a tokenizer without BOS and EOS.
        """
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise FitnessError(
                "the tokenizer has neither a BOS nor an EOS token; one is needed to start texts"
            )
        sets = {file: divided(file, config.seed) for file in config.files}
        return cls(sets, copy.deepcopy(tokenizer), config)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The files."""
        return tuple(self._sets)

    def leaves(self, name: str) -> tuple[str, ...]:
        """The file itself.

        Raises:
            FitnessError: unknown file.
        """
        self._both(name)
        return (name,)

    def documents(self, task: str, split: Split) -> tuple[str, ...]:
        """Content hashes of a file's documents, in the order that panels count in.

        Raises:
            FitnessError: unknown file.
        """
        return self._both(task)[split].hashes

    def sizes(self, split: Split) -> dict[str, int]:
        """File -> number of documents."""
        return {task: len(self.documents(task, split)) for task in self.tasks}

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """`perplexity` and `nll` per token, `bits_per_byte`, and `kl_to_base` per token.

        Raises:
            FitnessError: unknown file.
        """
        self._both(task)
        return tuple(Metric(task, name, "minimize", link) for name, link in _LINKS.items())

    def metric(self, task: str, name: str | None = None) -> Metric:
        """The named metric; None: perplexity.

        Raises:
            FitnessError: unknown file or metric.
        """
        return known_metric(self, task, name)

    def definition(self, task: str) -> dict[str, Any]:
        """What the scores depend on, besides the documents.

        Raises:
            FitnessError: unknown file.
        """
        self._both(task)
        return {"context": self._config.context, "reference_tokens": TOP_K}

    @property
    def reference_bytes(self) -> int:
        """Memory of the references on the CPU: at most 1,028 bytes per predicted token."""
        kept = (w.reference for windows in self._windows.values() for w in windows)
        return sum(r.n_bytes for r in kept if r is not None)

    def reference(self, model: Any, panel: Panel, split: Split) -> None:
        """Keep the base's predictions on documents, for `kl_to_base`; what is kept already stays.

        Args:
            model: the live model, while it holds the base's weights.
            panel: the documents on which the KL will be wanted, of files for which it will be.
            split: which documents.

        Raises:
            FitnessError: the panel does not fit.
            ScoringError: the base's predictions are not finite.
            torch.OutOfMemoryError: even single windows do not fit.
        """
        wanted = dict.fromkeys(h for hs in self._hashes(panel, split).values() for h in hs)
        with undisturbed(), torch.no_grad():
            self._cut(model, panel, split)
            todo = [h for h in wanted if not self._referred(h)]
            windows = [w for h in todo for w in self._windows[h]]
            found = self._batches.map(partial(references, model), windows)
        if any(bool(r.log_probabilities.isnan().any()) for r in found):
            raise ScoringError("the base's predictions are not numbers (NaN)")
        kept = iter(found)
        for h in todo:
            self._windows[h] = tuple(replace(w, reference=next(kept)) for w in self._windows[h])

    def score(self, model: Any, panel: Panel, split: Split) -> Scores:
        """Run the panel's documents and return all metrics of its files, by `Metric.key`.

        `kl_to_base` is mean KL(base || model), in nats per predicted token, of the documents that
        `reference` was called for; files without such documents have none. Beyond 128 tokens of
        vocabulary it is a lower bound: the base's 128 likeliest tokens are told apart, all others
        count as one. When memory runs out, batches are halved for this and all later calls.

        Args:
            model: a live transformers causal language model on its device.
            panel: positions in `documents(task, split)`.
            split: which documents.

        Raises:
            FitnessError: the panel does not fit, or only some documents of a file have a reference.
            ScoringError: the model's predictions are not finite.
            torch.OutOfMemoryError: even single windows do not fit.
        """
        hashes = self._hashes(panel, split)
        with undisturbed(), torch.no_grad():
            self._cut(model, panel, split)
            with_kl = {task: self._has_reference(task, hashes[task]) for task in hashes}
            measured = self._measured(model, [h for hs in hashes.values() for h in hs])
        scores: dict[str, DocumentScores] = {}
        for task, positions in panel.documents.items():
            both = self._sets[task][split]
            texts = [both.source[both.positions[p]] for p in positions]
            size = np.array([len(text.encode()) for text in texts], dtype=np.float64)
            table = np.array([measured[h] for h in hashes[task]], dtype=np.float64).reshape(-1, 3)
            ll, kl, tokens = table.T
            columns = {
                "perplexity": (ll, tokens),
                "nll": (-ll, tokens),
                "bits_per_byte": (ll, size),
            }
            if with_kl[task]:
                columns[KL] = (kl, tokens)
            scores |= {
                f"{task}/{name}": DocumentScores(hashes[task], total, weight)
                for name, (total, weight) in columns.items()
            }
        return scores

    def _measured(self, model: Any, hashes: Sequence[str]) -> dict[str, tuple[float, float, int]]:
        """Log-likelihood, KL and number of tokens of each document."""
        found: dict[str, tuple[float, float, int]] = {}
        for referred in (True, False):  # a batch computes the KL of all its windows or of none
            chosen = [h for h in dict.fromkeys(hashes) if self._referred(h) == referred]
            windows = [w for h in chosen for w in self._windows[h]]
            answers = iter(self._batches.map(partial(likelihoods, model), windows))
            for h in chosen:
                own = [next(answers) for _ in self._windows[h]]
                ll, kl = sum(a[0] for a in own), sum(a[1] for a in own)
                found[h] = (ll, kl, sum(len(w.targets) for w in self._windows[h]))
        if not all(math.isfinite(ll) and math.isfinite(kl) for ll, kl, _ in found.values()):
            raise ScoringError("the model's log-likelihoods are not finite")
        return found

    def _cut(self, model: Any, panel: Panel, split: Split) -> None:
        """Tokenize the panel's documents that were not, and cut them into windows."""
        context = self._config.context or resolve_max_length(model.config, self._tokenizer)
        for task, positions in panel.documents.items():
            both = self._sets[task][split]
            for p in positions:
                if both.hashes[p] not in self._windows:
                    text = both.source[both.positions[p]]
                    self._windows[both.hashes[p]] = _windows(self._tokenizer, text, context)

    def _referred(self, document: str) -> bool:
        return all(w.reference is not None for w in self._windows[document])

    def _has_reference(self, task: str, hashes: Sequence[str]) -> bool:
        referred = [self._referred(h) for h in hashes]
        if any(referred) and not all(referred):
            raise FitnessError(
                f"text '{task}': the base's predictions were kept for {sum(referred)} of the "
                f"{len(referred)} documents; they are needed for all of a panel, or for none"
            )
        return bool(referred) and all(referred)

    def _hashes(self, panel: Panel, split: Split) -> dict[str, tuple[str, ...]]:
        check_panel(self, panel, split)
        return {
            task: tuple(self._sets[task][split].hashes[p] for p in positions)
            for task, positions in panel.documents.items()
        }

    def _both(self, task: str) -> Mapping[Split, DocumentSet]:
        if task not in self._sets:
            raise FitnessError(unknown("text", task, self._sets))
        return self._sets[task]


def _windows(tokenizer: Any, text: str, context: int) -> tuple[Window, ...]:
    # tokens as HFLM.tok_encode has them: without special ones where the text brings its own
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    own = {"add_special_tokens": False} if text.startswith(tokenizer.decode(first)) else {}
    cut = get_rolling_token_windows(tokenizer.encode(text, **own), first, context, 1)
    return tuple(Window(torch.tensor(read), torch.tensor(told)) for read, told in cut)
