"""Where a candidate's time goes: materialize, model forward, everything else.

    python experiments/benchmarks/candidate.py [EXPERIMENT.yaml] [--candidates 40]
    python experiments/benchmarks/candidate.py --random 100m --candidates 3

Runs a random search of an experiment in a temporary run directory and prints shares of one run's
time. The model's forward is measured inside the same candidates, by hooks on the live model. With
--random the experiment is two objectives over random models of 100M parameters (10m: 10M) and 200
multiple-choice documents, all of which every candidate runs, and the same with the default panel.
"""

import argparse
import json
import random
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evoaim import Experiment, MergeEngine, run_search

SPENT = {"materialize": 0.0, "forward": 0.0}
SIZES = {"10m": (256, 8), "100m": (768, 12)}  # hidden size, layers
VOCABULARY = 8000
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {name}.search.jsonl, test: {name}.report.jsonl}}
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


class Timer:
    """A progress that notes when the search proper begins and when the last candidate ends."""

    begin = end = 0.0

    def stage(self, text: str) -> None:
        """Start counting."""
        if text == "searching":
            SPENT.update(materialize=0.0, forward=0.0)
            self.begin = time.perf_counter()

    def candidate(self, _snapshot: Any) -> None:
        """Keep what has been spent so far."""
        self.end = time.perf_counter()
        self.spent = dict(SPENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="?", default="experiments/quickstart.yaml")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--random", choices=SIZES)
    options = parser.parse_args()
    watch_materialize()
    with tempfile.TemporaryDirectory() as folder:
        if options.random is None:
            changes = ["optimizer={kind: random}"]
            profile(Experiment.from_yaml(options.experiment, changes), Path(folder), options)
            return
        data = random_experiment(Path(folder) / "models", options.random)
        for name, estimator in (
            ("all", {"kind": "sample_mean", "documents": None}),
            ("panel", {"kind": "greg", "documents": 20}),
        ):
            data |= {"name": name, "fitness": {**data["fitness"], "estimator": estimator}}
            profile(Experiment.from_dict(data), Path(folder) / name, options)


def profile(experiment: Experiment, folder: Path, options: argparse.Namespace) -> None:
    """Run a search and print where its candidates' time went."""
    data = {**experiment.to_dict(), "budget": {"candidates": options.candidates}}
    timer = Timer()
    run_search(Experiment.from_dict(data), folder / "run", timer)
    total = timer.end - timer.begin
    rest = total - timer.spent["materialize"] - timer.spent["forward"]
    table = Table("part", "ms a candidate", "share", title=f"{experiment.name}, one run")
    for name, spent in [*timer.spent.items(), ("everything else", rest), ("whole", total)]:
        table.add_row(name, f"{1e3 * spent / options.candidates:.1f}", f"{spent / total:.3f}")
    Console().print(table)


def random_experiment(folder: Path, size: str) -> dict[str, Any]:
    """Write random models and two multiple-choice tasks; the experiment over them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    hidden, layers = SIZES[size]
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(VOCABULARY - 3)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        vocab_size=VOCABULARY,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name in ("base", "a"):
        if name != "base":
            for parameter in model.parameters():
                parameter.data += 0.002 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    draw = random.Random(0)
    for task in ("one", "two"):
        for split in ("search", "report"):
            lines = [
                {
                    "question": " ".join(f"w{draw.randrange(4000)}" for _ in range(16)),
                    "choices": [f"w{draw.randrange(4000)} w{i}" for i in range(4)],
                    "answer": draw.randrange(4),
                }
                for _ in range(100 if split == "search" else 4)
            ]
            file = folder / f"{task}.{split}.jsonl"
            file.write_text("\n".join(map(json.dumps, lines)))
        (folder / f"{task}.yaml").write_text(TASK.format(name=task))
    return {
        "name": "random",
        "models": {
            "base": str(folder / "base"),
            "experts": {"a": str(folder / "a")},
            "dtype": "float32",
        },
        "search_space": {"method": "task_arithmetic", "genes": {"weight": {"per": ["expert"]}}},
        "objectives": [{"name": n, "tasks": [n]} for n in ("one", "two")],
        "fitness": {"task_path": str(folder), "batch_size": 16},
        "optimizer": {"kind": "random"},
        "budget": {"candidates": 1},
    }


def watch_materialize() -> None:
    """Time materialize and, within its block, the live model's forward."""
    inner = MergeEngine.materialize

    @contextmanager
    def outer(self: MergeEngine, recipe: Any) -> Any:
        begin = time.perf_counter()
        with inner(self, recipe) as model:
            SPENT["materialize"] += time.perf_counter() - begin
            started: list[float] = []
            hooks = [
                model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter())),
                model.register_forward_hook(lambda *_: add(time.perf_counter() - started.pop())),
            ]
            try:
                yield model
            finally:
                for hook in hooks:
                    hook.remove()

    def add(seconds: float) -> None:
        SPENT["forward"] += seconds

    MergeEngine.materialize = outer  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    main()
