"""Trains the demo zoo's base model and experts on the CPU, the same bits every time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from evoaim.zoo.folders import CONTEXT
from evoaim.zoo.language import ARITHMETIC, DOMAINS, END, GROUPS, PAD, questions
from evoaim.zoo.spec import ZooSpec

OnStep = Callable[[int], None]

BASE_PEAK_LR = 2e-3
EXPERT_PEAK_LR = 5e-4
EXPERT_SHARE = 0.75
"""Share of an expert's exercises that are of its domain; the others are the base's mix."""

_IGNORED = -100
# One thread: the order of sums does not depend on the cores, a busy machine does not stall
# it, and a second thread would save only about a fifth of the time on products this small.
_THREADS = 1
_WARM_UP = 0.1


@dataclass(frozen=True)
class Exercises:
    """All training questions as token ids, grouped by (language, task)."""

    ids: torch.Tensor
    """Prompt and answer, padded on the right; (questions, length), int64."""
    labels: torch.Tensor
    """The next word where it belongs to the answer or the end, -100 elsewhere; as `ids`."""
    starts: torch.Tensor
    sizes: torch.Tensor

    def draw(
        self, mix: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw `count` questions, their groups by `mix`; ids and labels, both (count, length)."""
        groups = torch.multinomial(mix, count, replacement=True, generator=generator)
        place = torch.rand(count, dtype=torch.float64, generator=generator) * self.sizes[groups]
        rows = self.starts[groups] + place.long()
        return self.ids[rows], self.labels[rows]


def encode_exercises(tokenizer: PreTrainedTokenizerBase) -> Exercises:
    """Turn every question of the training split into the ids that `tokenizer` has for its words.

    Looking the words up gives what the tokenizer would, in a twentieth of its time.
    """
    words = tokenizer.get_vocab()
    groups = [_encode_group(words, language, task) for language, task in GROUPS]
    length = max(ids.shape[1] for ids, _ in groups)
    ids = [_widened(ids, length, words[PAD]) for ids, _ in groups]
    labels = [_widened(labels, length, _IGNORED) for _, labels in groups]
    sizes = torch.tensor([len(group) for group in ids])
    return Exercises(torch.cat(ids), torch.cat(labels), sizes.cumsum(0) - sizes, sizes)


def base_mix() -> torch.Tensor:
    """Return the base's probability of every (language, task) group."""
    weights = torch.tensor([_base_weight(language, task) for language, task in GROUPS])
    return weights / weights.sum()


def expert_mix(domain: str) -> torch.Tensor:
    """Return an expert's probability of every group: its own domain, and some of the base's mix."""
    own = torch.tensor([float(group in DOMAINS[domain]) for group in GROUPS])
    return EXPERT_SHARE * own / own.sum() + (1 - EXPERT_SHARE) * base_mix()


def train_base(
    tokenizer: PreTrainedTokenizerBase, exercises: Exercises, spec: ZooSpec, on_step: OnStep
) -> Any:
    """Train the base from scratch and return it, in evaluation mode."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=2 * spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # a fifth faster than the fused kernel at these lengths
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    batches = _batches(exercises, base_mix(), spec.base_steps, spec.batch, seed=1)
    _train(model, batches, spec.base_steps, BASE_PEAK_LR, on_step)
    return model


def train_expert(
    base: Any, domain: str, exercises: Exercises, spec: ZooSpec, on_step: OnStep
) -> Any:
    """Fine-tune a copy of the base on one domain and return it, in evaluation mode."""
    model = copy.deepcopy(base)
    seed = 2 + list(DOMAINS).index(domain)
    mix = expert_mix(domain)
    batches = _batches(exercises, mix, spec.expert_steps, spec.batch, seed)
    _train(model, batches, spec.expert_steps, EXPERT_PEAK_LR, on_step)
    return model


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate's share of its peak: linear up for a tenth, then a cosine to 0."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def _encode_group(
    ids: Mapping[str, int], language: str, task: str
) -> tuple[torch.Tensor, torch.Tensor]:
    found = questions(language, task, "train")
    # All prompts of a group have the same number of words, and so have all answers.
    texts = [f"{question.prompt} {question.answer} {END}" for question in found]
    rows = torch.tensor([[ids[word] for word in text.split()] for text in texts])
    labels = rows[:, 1:].clone()
    labels[:, : len(found[0].prompt.split()) - 1] = _IGNORED
    return rows[:, :-1], labels


def _widened(rows: torch.Tensor, length: int, value: int) -> torch.Tensor:
    return functional.pad(rows, (0, length - rows.shape[1]), value=value)


def _base_weight(language: str, task: str) -> float:
    # Mostly English, with its slowly learned arithmetic doubled and little of the other two
    # languages: every expert is left with much to learn, on top of skills that the base has.
    if language == "english":
        return 2.0 if task in ARITHMETIC else 1.0
    return 0.3 if task in ARITHMETIC else 0.1


def _batches(
    exercises: Exercises, mix: torch.Tensor, steps: int, size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return (exercises.draw(mix, size, generator) for _ in range(steps))


def _train(
    model: Any,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    peak: float,
    on_step: OnStep,
) -> None:
    parameters: Sequence[torch.Tensor] = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    model.train()
    with _fixed_threads():
        for step, (ids, labels) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = peak * one_cycle(step, steps)
            logits = model(input_ids=ids, use_cache=False).logits
            loss = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            on_step(step + 1)
    model.eval()


@contextmanager
def _fixed_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
