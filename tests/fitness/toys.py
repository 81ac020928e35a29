"""Tiny offline tasks, a tiny random model, and lm-eval's own run to compare with."""

import json
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaConfig, LlamaForCausalLM

from fitness.harness import Harness
from fitness.types import HarnessConfig, Panel, Split

TOY_TASKS = ("toy_choice", "toy_greedy", "toy_generate", "toy_rolling")
WORDS = tuple(f"w{i}" for i in range(12))
ROWS = Sequence[Mapping[str, Any]]


def toy_rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Distinct documents with a question, an answer, choices and a text of varied length."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        choices = [" ".join(rng.choices(WORDS, k=rng.randint(1, 3))) for _ in range(3)]
        rows.append(
            {
                "id": f"{seed}-{i}",
                "question": " ".join(rng.choices(WORDS, k=rng.randint(2, 7))),
                "answer": rng.choice(WORDS),
                "choices": choices,
                "gold": rng.randrange(3),
                "text": " ".join(rng.choices(WORDS, k=rng.randint(5, 90))),
            }
        )
    return rows


def write_task(folder: Path, name: str, splits: Mapping[str, ROWS], **config: Any) -> None:
    """A task YAML with JSONL files beside it, named relative to it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, rows in splits.items():
        files[split] = f"{name}_{split}.jsonl"
        (folder / files[split]).write_text("\n".join(json.dumps(r) for r in rows))
    settings: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for kind, split in (("training", "train"), ("validation", "validation"), ("test", "test")):
        if split in splits:
            settings[f"{kind}_split"] = split
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | config))


def metrics(*names: str, higher: bool = True, **options: Any) -> list[dict[str, Any]]:
    """A `metric_list` whose aggregations are lm-eval's defaults of these metrics."""
    aggregations = {
        "brier_score": "brier_score",
        "mcc": "matthews_corrcoef",
        "perplexity": "perplexity",
        "word_perplexity": "weighted_perplexity",
        "byte_perplexity": "weighted_perplexity",
        "bits_per_byte": "bits_per_byte",
    }
    return [
        {"metric": n, "aggregation": aggregations.get(n, "mean"), "higher_is_better": higher}
        | options
        for n in names
    ]


def toy_model(seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def load(folder: Path, tokenizer: Any, *tasks: str, **settings: Any) -> Harness:
    return Harness.load(config(folder, *tasks, **settings), tokenizer)


def config(folder: Path, *tasks: str, **settings: Any) -> HarnessConfig:
    return replace(HarnessConfig(tasks=tasks, task_path=folder, batch_size=16), **settings)


def everything(harness: Harness, split: Split) -> Panel:
    return Panel({task: tuple(range(n)) for task, n in harness.sizes(split).items()})


def simple_evaluate(
    model: Any, tokenizer: Any, folder: Path, tasks: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """lm-eval's own run; to be called with the tasks' folder as working directory."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # seconds of subprocesses that describe the machine
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)
        patch.setattr(lm_eval.evaluator, "get_git_commit_hash", lambda: None)
        result: dict[str, Any] = lm_eval.evaluator.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, backend="causal"),
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            **settings,
        )
    return result
