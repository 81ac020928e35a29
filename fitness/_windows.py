"""Windows of tokens through a live model: log-likelihoods, and divergence from a reference."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

TOP_K = 128  # tokens of a reference that are kept by name
BATCH_TOKENS = 8192  # of one forward pass at most; enough to fill an accelerator
CHUNK = 1 << 26  # logits that are turned to float32 at a time
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model predicts: its likeliest tokens by name, all others as one.

    Args:
        tokens: (m, k) int32.
        log_probabilities: (m, k) float32, of these tokens.
        log_rest: (m,) float32, log of the probability of all others together; -inf if none is left.
    """

    tokens: Tensor
    log_probabilities: Tensor
    log_rest: Tensor

    @property
    def n_bytes(self) -> int:
        """What keeping it costs: 8 k + 4 bytes per predicted token."""
        return self.tokens.nbytes + self.log_probabilities.nbytes + self.log_rest.nbytes

    def __getitem__(self, span: slice) -> "Reference":
        return Reference(self.tokens[span], self.log_probabilities[span], self.log_rest[span])

    @classmethod
    def joined(cls, parts: Sequence["Reference"], device: torch.device) -> "Reference":
        """Several, one after the other, on a device."""
        return cls(
            torch.cat([p.tokens for p in parts]).to(device),
            torch.cat([p.log_probabilities for p in parts]).to(device),
            torch.cat([p.log_rest for p in parts]).to(device),
        )

    def divergence(self, logits: Tensor, norm: Tensor) -> Tensor:
        """KL(reference || model) of each prediction, in nats: (m,) float64.

        Exact where all tokens are kept by name. Else the KL of the two coarser distributions, which
        is a lower bound (data processing inequality; Cover & Thomas, Elements of Information
        Theory, 2.8).

        Args:
            logits: (m, vocabulary) float32.
            norm: (m,) their logsumexp.
        """
        named = self.tokens.long()
        rest = logits.scatter(-1, named, -torch.inf).logsumexp(-1, keepdim=True)
        log_q = torch.cat([logits.gather(-1, named), rest], -1).double() - norm[:, None]
        log_p = torch.cat([self.log_probabilities, self.log_rest[:, None]], -1).double()
        p, q, delta = log_p.exp(), log_q.exp(), log_q - log_p
        # sum (q - p - p log q/p) is the KL, as both sum to 1: no term is negative, so that rounding
        # does not leave a small KL as the difference of large terms
        near = p * (torch.expm1(delta) - delta)
        terms = torch.where(delta.abs() < 1, near, q - p - p * delta)
        return torch.where(p > 0, terms, q).sum(-1)


@dataclass(frozen=True, eq=False)
class Window:
    """A piece of a text as the model sees it.

    Args:
        tokens: (n,) int64, what the model reads.
        targets: (m,) int64, m <= n: what its last m positions predict.
        reference: of these m predictions, on the CPU.
    """

    tokens: Tensor
    targets: Tensor
    reference: Reference | None = None


class Batches:
    """Runs windows in batches of similar length, as large as memory turns out to allow."""

    def __init__(self, sequences: int) -> None:
        """`sequences`: of a batch at most."""
        self.sequences = sequences
        self.tokens = BATCH_TOKENS

    def map(self, step: Callable[[list[Window]], list[T]], windows: Sequence[Window]) -> list[T]:
        """`step` of all windows, in their order.

        When memory runs out, batches are halved, for this and all later calls.

        Raises:
            torch.OutOfMemoryError: even single windows do not fit.
        """
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i].tokens))
        done: dict[int, T] = {}
        while len(done) < len(order):
            longest = len(windows[order[len(done)]].tokens)
            rows = max(1, min(self.sequences, self.tokens // longest))
            chosen = order[len(done) : len(done) + rows]
            results = _unless_too_large(step, [windows[i] for i in chosen])
            if results is None:
                self.tokens = len(chosen) * longest // 2
                torch.cuda.empty_cache()
                continue
            done |= zip(chosen, results, strict=True)
        return [done[i] for i in range(len(windows))]


def _unless_too_large(
    step: Callable[[list[Window]], list[T]], windows: list[Window]
) -> list[T] | None:
    try:
        return step(windows)
    except torch.OutOfMemoryError:
        if len(windows) == 1:
            raise
        return None


def likelihoods(model: Any, windows: Sequence[Window]) -> list[tuple[float, float]]:
    """Log-likelihood of each window's targets, and KL from its reference, summed, in nats.

    The KL is 0 unless all windows have a reference.
    """
    device = next(model.parameters()).device
    targets = torch.cat([w.targets for w in windows]).to(device)
    kept = [w.reference for w in windows if w.reference is not None]
    reference = Reference.joined(kept, device) if len(kept) == len(windows) else None
    found = torch.zeros(2, len(targets), dtype=torch.float64, device=device)
    for span, logits in _predictions(model, windows):
        norm = logits.logsumexp(-1)
        found[0, span] = logits.gather(-1, targets[span, None]).squeeze(-1).double() - norm
        if reference is not None:
            found[1, span] = reference[span].divergence(logits, norm)
    parts = torch.split(found.cpu(), [len(w.targets) for w in windows], dim=1)
    return [(float(p[0].sum()), float(p[1].sum())) for p in parts]


def references(model: Any, windows: Sequence[Window]) -> list[Reference]:
    """What the model predicts in each window: its `TOP_K` likeliest tokens and the rest."""
    parts = []
    for _, logits in _predictions(model, windows):
        norm = logits.logsumexp(-1)
        top = logits.topk(min(TOP_K, logits.shape[-1]))
        rest = logits.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
        parts.append(Reference(top.indices.int(), top.values - norm[:, None], rest - norm))
    whole = Reference.joined(parts, torch.device("cpu"))
    ends = torch.tensor([len(w.targets) for w in windows]).cumsum(0).tolist()
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _predictions(model: Any, windows: Sequence[Window]) -> Iterator[tuple[slice, Tensor]]:
    """Float32 logits (m, vocabulary) of successive targets, and which of all targets they are."""
    device = next(model.parameters()).device
    longest = max(len(w.tokens) for w in windows)
    tokens = torch.zeros(len(windows), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, w in enumerate(windows):
        tokens[row, : len(w.tokens)] = w.tokens
        mask[row, : len(w.tokens)] = 1
    places = torch.cat(
        [
            row * longest + torch.arange(len(w.tokens) - len(w.targets), len(w.tokens))
            for row, w in enumerate(windows)
        ]
    ).to(device)
    output = model(
        input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False
    ).logits.flatten(0, 1)
    step = max(1, CHUNK // output.shape[-1])
    for start in range(0, len(places), step):
        span = slice(start, min(start + step, len(places)))
        yield span, output[places[span]].float()
