"""Experiment files: each is complete and consistent as far as that shows without its models."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoTokenizer

from evoaim import Experiment, run_search
from evoaim.errors import USER_ERRORS
from evoaim.front import hypervolume, reference_point
from evoaim.results import losses
from evoaim.validation import describe
from fitness._tasks import _manager
from fitness.harness import Harness
from fitness.types import HarnessConfig
from search_spaces import strict_yaml
from tests.adapters import adapter, factors
from tests.architectures import save

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p for p in (ROOT / "experiments").rglob("*.yaml") if "tasks" not in p.relative_to(ROOT).parts
)
SEARCHES = [p for p in FILES if p.name == "search.yaml"]
FAMILY = {"meta-llama": "llama", "Qwen": "qwen2"}  # who publishes the base -> architecture
# Tasks that cannot be loaded here: the first fetches its metric, the second needs more packages.
WRITTEN_HERE = {"mbpp": "pass_at_1", "ifeval": "prompt_level_strict_acc"}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT / "experiments"))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_experiment_parses_and_has_a_seed(file: Path) -> None:
    experiment = Experiment.from_yaml(file)
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    assert "seed" in strict_yaml.read(file)


@pytest.mark.skipif(not (ROOT / "zoo" / "base").is_dir(), reason="needs the demo zoo")
def test_the_quickstart_beats_every_parent_on_the_report_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    experiment = Experiment.from_yaml("experiments/quickstart.yaml", ["budget.candidates=64"])
    results = run_search(experiment, tmp_path / "run")
    front, parents = (
        losses(results.objectives, [e.report or {} for e in entries])
        for entries in (results.front, results.parents)
    )
    assert -front.mean(axis=1).min() > -parents.mean(axis=1).min()
    corner = reference_point(parents)
    assert hypervolume(np.concatenate([front, parents]), corner) > hypervolume(parents, corner)


def declared(experiment: Experiment) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Task -> the YAML that lm-eval finds for it and what that says, nothing executed."""
    names = [t for o in experiment.objectives for t in o.tasks]
    folder = experiment.fitness.task_path
    index = _manager(names, ROOT / folder if folder else None).task_index
    files = {n: Path(index[n].yaml_path) for n in names}
    return {n: (file, load_yaml(file, resolve_func=False)) for n, file in files.items()}


@pytest.mark.parametrize("file", [*SEARCHES, ROOT / "experiments" / "own_models.yaml"], ids=name)
def test_tasks_and_metrics_exist_in_lm_eval(file: Path) -> None:
    experiment = Experiment.from_yaml(file)
    found = declared(experiment)
    for objective in experiment.objectives:
        for task in objective.tasks:
            config = found[task][1]
            metrics = [str(m["metric"]).rpartition(".")[2] for m in config.get("metric_list", [])]
            filters = [f["name"] for f in config.get("filter_list", [])]
            metric, _, filtered = (objective.metric or metrics[0]).partition(",")
            assert metric in metrics, task
            assert filtered in filters if filtered else len(filters) <= 1, task


def test_unsafe_tasks_are_the_readers_choice() -> None:
    for file in SEARCHES:
        experiment = Experiment.from_yaml(file)
        unsafe = [n for n, (_, config) in declared(experiment).items() if config.get("unsafe_code")]
        assert not experiment.fitness.allow_unsafe_code
        assert not unsafe or "allow_unsafe_code: false" in file.read_text(), unsafe


def spelling(folder: Path) -> None:
    """Save a tokenizer of bytes, the kind that all these families have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "<s>", "</s>", "Ġ", *"abcdefghijklmnopqrstuvwxyzHQSA0123456789.,:?"]
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, [], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def model(folder: Path, architecture: str, seed: int) -> str:
    save(folder, architecture, seed, num_hidden_layers=4, max_position_embeddings=1024)
    spelling(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{m.content}}{% endfor %}")
    return str(folder)


def texts(path: Path) -> None:
    lines = (" ".join(f"w{i * j % 64}" for j in range(30)) + f" w{i}" for i in range(300))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))


def row(split: str, i: int) -> dict[str, Any]:
    """A document that every task used here can read."""
    question = {"question": f"How much is {i} and {len(split)}?", "id": f"{split}{i}"}
    arc = {"instruction": question["question"], "option_e": None, "answerKey": "A"}
    arc |= {f"option_{letter}": f"{letter}{i}" for letter in "abcd"}
    options = {"label": list("ABCD"), "text": [arc[f"option_{letter}"] for letter in "abcd"]}
    return {**question, **arc, "choices": options, "answer_number": i + len(split)}


def stand_in(folder: Path, task: str, declared_in: Path, config: dict[str, Any]) -> None:
    """The task as it is, prompts and metrics included, on documents made up here."""
    own: dict[str, Any] = {"include": str(declared_in)}
    if task in WRITTEN_HERE:
        (folder / "judge.py").write_text("def judge(doc, results):\n    return {}\n")
        kept = ("output_type", "test_split", "unsafe_code", "num_fewshot")
        metric = {"metric": WRITTEN_HERE[task], "aggregation": "mean", "higher_is_better": True}
        own = {k: config[k] for k in kept if k in config}
        own |= {"num_fewshot": 0, "metric_list": [metric], "doc_to_text": "{{question}}"}
        own |= {"doc_to_target": "{{answer_number}}"}
    kinds = ("training_split", "validation_split", "test_split", "fewshot_split")
    files = {}
    for split in {config[kind] for kind in kinds if config.get(kind)}:
        files[split] = f"{task}.{split}.jsonl"
        lines = []
        for i in range(600):
            answer = f"It is #### {i}" if config["output_type"] == "generate_until" else "A"
            lines.append(json.dumps({**row(f"{task} {split}", i), "answer": answer}))
        (folder / files[split]).write_text("\n".join(lines))
    own |= {"task": task, "dataset_path": "json", "dataset_name": None, "custom_dataset": None}
    own |= {"dataset_kwargs": {"data_files": files}}
    body = yaml.safe_dump(own)
    if task in WRITTEN_HERE:
        body += "process_results: !function judge.judge\n"
    (folder / f"{task}.yaml").write_text(body)


def on_tiny_models(file: Path, folder: Path) -> dict[str, Any]:
    """The experiment with random models of its architecture and documents made up here."""
    experiment = Experiment.from_yaml(file)
    data = experiment.to_dict()
    architecture = FAMILY[experiment.models.base.partition("/")[0]]
    data["models"]["base"] = model(folder / "base", architecture, 0)
    for i, expert in enumerate(experiment.models.experts):
        if "adapters/" in experiment.models.experts[expert]:
            own = adapter(folder / expert, factors(f"model.layers.{i}.self_attn.q_proj"))
        else:
            own = model(folder / expert, architecture, i + 1)
        data["models"]["experts"][expert] = own
    (folder / "tasks").mkdir()
    for task, (found, config) in declared(experiment).items():
        stand_in(folder / "tasks", task, found, config)
    texts(folder / "texts.jsonl")
    data["fitness"]["task_path"] = str(folder / "tasks")
    data["calibration"]["data"] = str(folder / "texts.jsonl")
    for objective in data["objectives"]:
        objective["text"] = objective["text"] and str(folder / "texts.jsonl")
    return data


@pytest.mark.parametrize("file", SEARCHES, ids=name)
def test_a_search_is_valid_on_small_models_of_its_architecture(file: Path, tmp_path: Path) -> None:
    data = on_tiny_models(file, tmp_path)
    if "mbpp" in file.read_text():
        with pytest.raises(USER_ERRORS, match="allow_unsafe_code: true"):
            list(describe(Experiment.from_dict(data)))
        data["fitness"]["allow_unsafe_code"] = True
    lines = list(describe(Experiment.from_dict(data)))
    assert lines[-1] == "valid"
    assert any(line.startswith("aim ") for line in lines)
    assert not [line for line in lines if line.startswith("warning")]


def test_languages_are_searched_and_reported_on_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(_path: str, language: str) -> DatasetDict:  # instead of the hub's data set
        asked = [{"question": f"{language} {i}", "answer": None} for i in range(250)]
        shown = [{"question": f"{language} x{i}", "answer": f"{'-' * 30}{i}"} for i in range(8)]
        rows = {"test": asked, "train": shown}
        return DatasetDict(
            {s: Dataset.from_list([{**r, "answer_number": 1} for r in rows[s]]) for s in rows}
        )

    monkeypatch.setattr("datasets.load_dataset", published)
    spelling(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    languages = ("de", "es", "fr")
    tasks = tuple(f"mgsm_halves_{language}" for language in languages)
    folder = ROOT / "experiments" / "cross_lingual_math" / "tasks"
    harness = Harness.load(HarnessConfig(tasks, folder), tokenizer)
    asked: dict[str, list[str]] = {}
    for split in ("search", "report"):
        found = [[q.split()[1] for q in harness.labels(t, split, "question")] for t in tasks]
        assert found[0] == found[1] == found[2]
        asked[split] = found[0]
    assert len(asked["search"]) == len(asked["report"]) == 125
    assert not set(asked["search"]) & set(asked["report"])


def test_calibration_text_is_what_a_search_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for split, text in (("one", "short"), ("two", "long enough " * 50)):
        rows = [{"text": f"{text} {i}", "id": i} for i in range(20)]
        lines = "\n".join(map(json.dumps, rows))
        (tmp_path / "data" / f"{split}.jsonl").write_text(lines)
    out = tmp_path / "calibration.jsonl"

    def run(*options: str) -> None:
        argv = ["calibration_text.py", str(tmp_path / "data"), str(out), *options]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(str(ROOT / "experiments" / "calibration_text.py"), run_name="__main__")

    run("--documents", "15")
    written = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert len(set(written)) == 15
    assert all(text.startswith("long enough") for text in written)
    with pytest.raises(SystemExit, match="exists already"):
        run()
    out.unlink()
    with pytest.raises(SystemExit, match="only 20 texts found"):
        run("--documents", "21")
    with pytest.raises(SystemExit, match="the dataset has text, id"):
        run("--field", "body")
