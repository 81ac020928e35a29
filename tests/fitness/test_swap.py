"""Weights replaced in a live engine: the order of calls, and that no wrong score gets out.

vLLM itself is not here. The engine is a small one of our own around a transformers model: it takes
tensors by name, answers, and remembers answers as a prefix cache remembers keys and values.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file
from toys import TOY_TASKS, everything, load, toy_model

from fitness import _vllm
from fitness._swap import SwappableEngine
from fitness._vllm import Worker, hand_over, through
from fitness.errors import FitnessError, ScoringError
from fitness.harness import Harness


class ToyWorker(Worker):
    """vLLM's part of a worker, and ours."""

    def __init__(self, load_weights: Callable[[Any], None]) -> None:
        self.model_runner = SimpleNamespace(model=SimpleNamespace(load_weights=load_weights))

    def reload_weights(self, weights_path: str) -> None:
        self.load_named(list(load_file(f"{weights_path}/model.safetensors").items()))


class ToyEngine:
    def __init__(self, log: list[str]) -> None:
        self.live = toy_model(0)
        self.worker = ToyWorker(self.load_weights)
        self.llm_engine = self
        self.unfinished = False
        self.remembered: dict[tuple[int, ...], tuple[float, bool]] = {}
        self.log = log

    def load_weights(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        parameters = dict(self.live.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors:
                parameters[name].copy_(tensor)

    def has_unfinished_requests(self) -> bool:
        return self.unfinished

    def collective_rpc(self, method: str, *, args: Any = (), kwargs: Any = None) -> None:
        self.log.append(method)
        getattr(self.worker, method)(*args, **(kwargs or {}))

    def reset_prefix_cache(self) -> bool:
        self.log.append("reset")
        self.remembered.clear()
        return True


class Deaf(ToyEngine):
    def load_weights(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Keeps its weights."""


class Confused(ToyEngine):
    def load_weights(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Takes one half of a fused matrix for the other."""
        other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
        super().load_weights(
            [(".".join(other.get(part, part) for part in n.split(".")), t) for n, t in tensors]
        )


class Busy(ToyEngine):
    def reset_prefix_cache(self) -> bool:
        return False


class Forgetful(ToyEngine):
    def reset_prefix_cache(self) -> bool:
        return True


class ToyBackend(TemplateLM):  # type: ignore[misc]
    """As lm-eval's VLLM: it holds an engine, in `model`."""

    batch_size = "auto"
    max_gen_toks = 256

    def __init__(self, engine: ToyEngine, tokenizer: Any) -> None:
        super().__init__()
        self.model = engine
        self._hf = HFLM(
            pretrained=engine.live, tokenizer=tokenizer, batch_size=16, backend="causal"
        )
        self.max_length = self._hf.max_length

    @property
    def eot_token_id(self) -> int:
        return int(self._hf.eot_token_id)

    @property
    def prefix_token_id(self) -> int:
        return int(self._hf.prefix_token_id)

    def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
        return list(self._hf.tok_encode(string, add_special_tokens=add_special_tokens))

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **_: Any) -> Any:
        keys = [(len(r[1]), *r[1], *r[2]) for r in requests]
        known = self.model.remembered
        new = [r for r, k in zip(requests, keys, strict=True) if k not in known]
        self.model.log += ["answer"] if new else []
        answers = self._hf._loglikelihood_tokens(new, disable_tqdm=disable_tqdm)
        known |= zip([k for k in keys if k not in known], answers, strict=True)
        return [known[k] for k in keys]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self._hf.loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return self._hf.generate_until(requests, disable_tqdm=disable_tqdm)


def weights(seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    return iter(toy_model(seed).named_parameters())


class Made:
    """Counts the engines that it makes."""

    def __init__(self, kind: type[ToyEngine], tokenizer: Any) -> None:
        self.kind, self.tokenizer, self.count = kind, tokenizer, 0
        self.log: list[str] = []

    def __call__(self) -> ToyBackend:
        self.count += 1
        return ToyBackend(self.kind(self.log), self.tokenizer)


def swappable(
    tokenizer: Any, kind: type[ToyEngine] = ToyEngine, send: Any = hand_over
) -> tuple[SwappableEngine, Made]:
    made = Made(kind, tokenizer)
    return SwappableEngine(made, partial(weights, 0), send), made


def totals(harness: Harness, model: Any) -> dict[str, list[float]]:
    scores = harness.score(model, everything(harness, "report"), "report")
    return {key: s.total.tolist() for key, s in scores.items()}


def test_scores_are_those_of_the_weights_that_were_sent_last(
    task_folder: Path, tokenizer: Any
) -> None:
    engine, made = swappable(tokenizer)
    own, theirs = (load(task_folder, tokenizer, *TOY_TASKS) for _ in range(2))
    for seed in (1, 2, 1):
        engine.update(weights(seed))
        found, expected = totals(own, engine.lm), totals(theirs, toy_model(seed))
        assert found.keys() == expected.keys()
        for key in found:
            assert found[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
    assert made.count == 1


def test_caches_go_before_anything_is_answered(tokenizer: Any) -> None:
    engine, made = swappable(tokenizer)
    made.log.clear()
    engine.update(weights(1))
    assert made.log == ["load_named", "reset", "answer"]


def test_tensors_go_in_order_some_at_a_time(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, made = swappable(tokenizer)
    monkeypatch.setattr(_vllm, "_BUCKET", 8000)
    made.log.clear()
    sent: list[str] = []
    toy = engine.lm.model
    taken = toy.worker.model_runner.model.load_weights

    def watch(tensors: list[tuple[str, torch.Tensor]]) -> None:
        sent.extend(name for name, _ in tensors)
        taken(tensors)

    toy.worker.model_runner.model.load_weights = watch
    engine.update(weights(1))
    assert made.log.count("load_named") > 2
    assert sent == [name for name, _ in weights(1)]


def test_tensors_can_go_through_a_file(tmp_path: Path, tokenizer: Any) -> None:
    direct, _ = swappable(tokenizer)
    engine, made = swappable(tokenizer, send=partial(through, tmp_path))
    for one in (direct, engine):
        one.update(weights(1))
    assert made.log.count("reload_weights") == 3
    sent = dict(engine.lm.model.live.named_parameters())
    assert all(torch.equal(sent[n], p) for n, p in direct.lm.model.live.named_parameters())


def test_no_update_while_requests_are_answered(tokenizer: Any) -> None:
    engine, _ = swappable(tokenizer)
    engine.update(weights(1))
    before = engine.lm.model.live.state_dict()
    kept = {n: t.clone() for n, t in before.items()}
    engine.lm.model.unfinished = True
    with pytest.raises(FitnessError, match="while the engine answers requests"):
        engine.update(weights(2))
    assert all(torch.equal(before[n], t) for n, t in kept.items())
    engine.lm.model.unfinished = False
    engine.update(weights(2))


def broken(tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    yield next(tensors)
    raise OSError("disk")


def test_after_a_failure_nothing_is_scored_until_a_new_engine_took_its_weights(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_vllm, "_BUCKET", 1)  # the first tensor is in when the second fails
    engine, made = swappable(tokenizer)
    with pytest.raises(OSError, match="disk"):
        engine.update(broken(weights(1)))
    with pytest.raises(ScoringError, match="update it again first"):
        _ = engine.lm
    engine.update(weights(0))  # the base's, which the new engine holds already
    assert made.count == 2
    held = dict(engine.lm.model.live.named_parameters())
    assert all(torch.equal(held[name], tensor) for name, tensor in weights(0))
    engine.update(weights(2))
    assert made.count == 2


def test_tensors_must_be_those_of_the_checkpoint(tokenizer: Any) -> None:
    engine, _ = swappable(tokenizer)
    with pytest.raises(FitnessError, match=r"tensors missing .*: lm_head\.weight"):
        engine.update(pair for pair in weights(1) if pair[0] != "lm_head.weight")
    with pytest.raises(ScoringError, match="update it again first"):
        _ = engine.lm


def test_the_same_weights_twice_are_no_failure(tokenizer: Any) -> None:
    engine, _ = swappable(tokenizer)
    for _ in range(2):
        engine.update(weights(1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Deaf, "answers as before though its weights were replaced"),
        (Forgetful, "answers as before though its weights were replaced"),
        (Busy, "kept cached prompts"),
        (Confused, "when the same are loaded in place; use fitness.backend: transformers"),
    ],
)
def test_an_engine_that_cannot_be_trusted_is_found_out_at_once(
    tokenizer: Any, kind: type[ToyEngine], message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        swappable(tokenizer, kind)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_is_refused_where_it_is_not_installed(task_folder: Path, tokenizer: Any) -> None:
    for refused in (
        partial(load, task_folder, tokenizer, "toy_choice", backend="vllm"),
        partial(_vllm.open_engine, task_folder, "bfloat16"),
    ):
        with pytest.raises(FitnessError, match=r'pip install "evoaim\[vllm\]"'):
            refused()
