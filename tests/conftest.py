"""Tiny random models, built on the fly: a base and three experts that differ from it a little."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from evoaim.live import quiet
from search_spaces import strict_yaml

ROOT = Path(__file__).parents[1]

# a shell without job control starts what it puts into the background deaf to Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


def make_tokenizer(folder: Path, words: int) -> None:
    """Save a word-level fast tokenizer with `words` words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def make_model(folder: Path, seed: int, like: Path | None = None, **config: object) -> Path:
    """Save a random Llama; with `like`, that model plus small random deltas."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(seed)
    settings = {
        "vocab_size": 67,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        if like is None:
            model = LlamaForCausalLM(LlamaConfig(**(settings | config)))
        else:
            model = AutoModelForCausalLM.from_pretrained(like)
            for p in model.parameters():
                p.data += 0.05 * torch.randn(p.shape, generator=generator) * p.std()
        model.save_pretrained(folder)
    make_tokenizer(folder, 64)
    return folder


settings.register_profile("evoaim", deadline=None)  # machines are shared
settings.load_profile("evoaim")


@pytest.fixture(scope="session")
def model_maker() -> Callable[..., Path]:
    """`make_model`, for tests that need a model of their own."""
    return make_model


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a base and the experts a, b and c fine-tuned from it."""
    root = tmp_path_factory.mktemp("family")
    base = make_model(root / "base", seed=0)
    experts = {n: make_model(root / n, seed=i + 1, like=base) for i, n in enumerate("abc")}
    return {"base": str(base)} | {n: str(p) for n, p in experts.items()}


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: data/{name}.search.jsonl, test: data/{name}.report.jsonl}}
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: [" w1", " w2", " w3", " w4"]
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


def make_tasks(folder: Path, names: tuple[str, ...], documents: int = 40) -> Path:
    """Save multiple-choice tasks over the words of `make_tokenizer`, answers without a pattern."""
    (folder / "data").mkdir(parents=True)
    for t, name in enumerate(names):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name))
        for s, split in enumerate(("search", "report")):
            lines = []
            for i in range(documents):
                words = [f"w{(7 * i + 13 * j + 5 * t + 31 * s) % 64}" for j in range(3 + i % 3)]
                question = " ".join([*words, f"w{i % 64}", f"w{32 * s + i // 2 % 32}"])
                lines.append(json.dumps({"question": question, "answer": (i * i + t + s) % 4}))
            (folder / "data" / f"{name}.{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny(family: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole experiment over `family` with two objectives, as plain data; runs in seconds."""
    root = tmp_path_factory.mktemp("tiny")
    make_tasks(root / "tasks", ("one", "two"))
    (root / "calibration.jsonl").write_text(
        "\n".join(json.dumps({"text": f"w{i} w{i * 7 % 64} w{i * i % 64}"}) for i in range(60))
    )
    return {
        "name": "tiny",
        "models": {
            "base": family["base"],
            "experts": {n: family[n] for n in "abc"},
            "dtype": "float32",
            "device": "cpu",
        },
        "search_space": {"preset": "ties_aim"},
        "calibration": {
            "data": str(root / "calibration.jsonl"),
            "documents": 50,
            "block_size": 32,
        },
        "objectives": [{"name": n, "tasks": [n]} for n in ("one", "two")],
        "fitness": {
            "task_path": str(root / "tasks"),
            "estimator": {"kind": "sample_mean", "documents": 20},
        },
        "optimizer": {"kind": "nsga2", "population": 6},
        "budget": {"candidates": 22},
    }


@pytest.fixture(scope="session")
def zoo_search() -> dict[str, Any]:
    """The quickstart's experiment as plain data, eager to race and to promote, with few candidates.

    The random models of `family` differ too little to be told apart on a few documents.
    """
    if not (ROOT / "zoo" / "base").is_dir():
        pytest.skip("needs the demo zoo")
    data = strict_yaml.read(ROOT / "experiments" / "quickstart.yaml")
    zoo = str(ROOT / "zoo")
    data = json.loads(json.dumps(data).replace('"zoo/', f'"{zoo}/'))
    data["fitness"] |= {
        "estimator": {"kind": "greg", "documents": 50},
        "racing": {"alpha": 0.4, "looks": [0.3, 0.5, 0.7]},
        "promotion": {"share": 0.3, "finalists": 4},
    }
    return {**data, "optimizer": {"kind": "nsga2", "population": 8}, "budget": {"candidates": 28}}
