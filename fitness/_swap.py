"""One inference engine whose weights are replaced in place, candidate after candidate."""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from fitness.errors import FitnessError, ScoringError

Named = Iterable[tuple[str, torch.Tensor]]  # names as in the checkpoint, ordered by layer
PROBES = (("The capital of France is", " Paris"), ("One, two, three,", " four"))


class Engine(Protocol):
    """The part of vLLM's `LLM` that is used."""

    llm_engine: Any  # has_unfinished_requests() -> bool

    def collective_rpc(self, method: str, *, args: Any = (), kwargs: Any = None) -> Any:
        """Call a method of every worker."""

    def reset_prefix_cache(self) -> bool:
        """Forget keys and values of shared prompts; False if that was not possible."""


class Backend(Protocol):
    """The part of lm-eval's `VLLM` that is used here; `Harness.score` takes such a model."""

    @property
    def model(self) -> Any: ...

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]: ...

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], *, disable_tqdm: bool
    ) -> Sequence[tuple[float, bool]]: ...


class SwappableEngine:
    """One engine. An update that fails leaves it unusable; the next one builds it anew."""

    def __init__(
        self,
        make: Callable[[], Backend],
        base: Callable[[], Named],
        send: Callable[[Engine, Named], None],
    ) -> None:
        """Build an engine with the base's weights; prove that they can be replaced in place.

        Args:
            make: builds lm-eval's model around an engine with the base's weights.
            base: all tensors of the base's checkpoint.
            send: brings tensors into the engine.

        Raises:
            ScoringError: new weights have no effect, or not the effect that the folder's have.
        """
        self._make, self._send = make, send
        self._names: frozenset[str] | None = None  # of the base's tensors
        self._lm: Backend | None = make()
        self._held: dict[str, tuple[float, float]] = {}  # a digest of the weights that it holds
        self._answers = fresh = _answers(self._lm)
        self.update((name, 0.5 * tensor) for name, tensor in base())
        self.update(base())
        if not all(map(partial(math.isclose, rel_tol=0.01), self._answers, fresh)):
            raise ScoringError(
                f"the engine answers {fresh} with the weights of its folder and {self._answers} "
                "when the same are loaded in place; use fitness.backend: transformers"
            )
        self._base = self._held

    @property
    def lm(self) -> Backend:
        """The model to score.

        Raises:
            ScoringError: the last update failed, the engine may hold parts of two models.
        """
        if self._lm is None:
            raise ScoringError("the last update of the engine failed; update it again first")
        return self._lm

    def update(self, tensors: Named) -> None:
        """Replace all weights.

        Raises:
            FitnessError: requests are being answered; tensors are missing or unknown.
            ScoringError: the cache of prompts, or the answers, stayed those of the old weights.
        """
        if self._lm is not None and self._lm.model.llm_engine.has_unfinished_requests():
            raise FitnessError("weights cannot be replaced while the engine answers requests")
        lm, self._lm = self._lm, None  # until all went well: an update is not transactional
        if lm is None:
            gc.collect()  # frees the broken engine
            lm = self._make()
            self._held, self._answers = self._base, _answers(lm)
        digest: dict[str, tuple[float, float]] = {}
        self._send(lm.model, _watched(tensors, digest))
        self._names = frozenset(digest) if self._names is None else self._names
        if digest.keys() != self._names:
            some = ", ".join(sorted(digest.keys() ^ self._names)[:3])
            raise FitnessError(f"tensors missing or not of the base's checkpoint: {some} ...")
        if not lm.model.reset_prefix_cache():
            raise ScoringError("the engine kept cached prompts of the old weights")
        answers = _answers(lm)
        if answers == self._answers and digest != self._held:
            raise ScoringError("the engine answers as before though its weights were replaced")
        self._lm, self._held, self._answers = lm, digest, answers


def _answers(lm: Backend) -> tuple[float, ...]:
    requests = [((c, a), *lm._encode_pair(c, a)) for c, a in PROBES]
    return tuple(ll for ll, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True))


def _watched(
    tensors: Named, digest: dict[str, tuple[float, float]]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors:
        known = tensor.detach()
        digest[name] = known.sum(dtype=torch.float64).item(), known.float().norm().item()
        yield name, tensor
