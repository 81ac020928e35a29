"""The demo zoo: its language and splits, its files, and when it is built, skipped or refused."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from evoaim.errors import ConfigError
from evoaim.zoo import ZooSpec, build_zoo, is_intact
from evoaim.zoo.documents import calibration_texts, domain_documents, mixed_documents
from evoaim.zoo.folders import build_tokenizer
from evoaim.zoo.language import DOMAINS, END, GROUPS, LANGUAGES, TASKS, questions, vocabulary
from evoaim.zoo.training import base_mix, encode_exercises, expert_mix, one_cycle

TINY = ZooSpec(hidden_size=16, layers=1, base_steps=2, expert_steps=2, batch=4)
VALUES = {
    word: value
    for language in LANGUAGES.values()
    for words, step in ((language.tens, 10), (language.units, 1))
    for value, word in zip(range(0, 10 * step, step), words, strict=True)
}


@pytest.fixture(scope="module")
def tiny_zoo(tmp_path_factory):
    return build_zoo(tmp_path_factory.mktemp("zoo") / "zoo", spec=TINY)


def files_of(folder):
    """Digests of the files; those of task files aside, which name the place of their data."""
    files = json.loads((folder / "zoo.json").read_text())["files"]
    return {name: digest for name, digest in files.items() if not name.endswith(".yaml")}


def numbers(text):
    """Read the numbers of a text back, in the independent way: by summing its words' values."""
    values = [VALUES[word] for word in text.split() if word in VALUES]
    return [tens + units for tens, units in zip(values[::2], values[1::2], strict=True)]


def evaluated():
    return [
        document
        for domain in DOMAINS
        for split in ("search", "report")
        for document in domain_documents(domain, split)
    ]


# --- language and splits ------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("task", "solve"),
    [
        ("add", lambda a, b: (a + b) % 100),
        ("subtract", lambda a, b: (a - b) % 100),
        ("maximum", max),
        ("next", lambda a: (a + 1) % 100),
        ("previous", lambda a: (a - 1) % 100),
        ("translate", lambda a: a),
    ],
)
def test_answers_are_right(language, task, solve):
    for question in questions(language, task, "report"):
        assert numbers(question.answer) == [solve(*numbers(question.prompt))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_reversed_digits_are_the_digits_backwards(language):
    for question in questions(language, "reverse", "report"):
        assert question.answer.split() == question.prompt.split()[3:0:-1]


@pytest.mark.parametrize("task", TASKS)
def test_no_question_is_in_two_splits_in_any_language_or_order(task):
    def contents(split):
        found = set()
        for language in LANGUAGES:
            for question in questions(language, task, split):
                words = question.prompt.split()
                values = [VALUES[word] for word in words if word in VALUES]
                pairs = list(zip(values[::2], values[1::2], strict=False))
                symmetric = task in ("add", "maximum")
                found.add(tuple(sorted(pairs)) if symmetric else tuple(values))
        return found

    train, search, report = contents("train"), contents("search"), contents("report")
    assert train.isdisjoint(search | report)
    assert search.isdisjoint(report)
    assert len(train) > len(search) + len(report)


def test_a_domain_has_200_search_and_400_report_documents_all_different():
    for domain in DOMAINS:
        prompts = [
            [document["prompt"] for document in domain_documents(domain, split)]
            for split in ("search", "report")
        ]
        assert [len(split) for split in prompts] == [200, 400]
        assert len({prompt for split in prompts for prompt in split}) == 600


def test_mixed_documents_have_four_choices_of_which_the_gold_one_answers():
    known = {document["prompt"]: document["answer"] for document in evaluated()}
    assert [len(mixed_documents(split)) for split in ("search", "report")] == [60, 120]
    for document in mixed_documents("report"):
        assert len(set(document["choices"])) == 4
        assert document["choices"][document["gold"]] == known[document["prompt"]]


def test_calibration_shows_every_language_and_no_evaluated_question():
    texts = calibration_texts()
    prompts = {document["prompt"] for document in evaluated()}
    assert len(texts) >= 400
    assert all(text.split("=")[0] + "=" not in prompts for text in texts)
    for language in LANGUAGES.values():
        assert {text.split()[0] for text in texts} >= set(language.tasks.values())


# --- tokens and exercises -----------------------------------------------------------------------


def test_the_saved_tokenizer_reads_every_word_as_its_place_and_adds_nothing(tiny_zoo):
    words = vocabulary()
    for name in ("base", *DOMAINS):
        tokenizer = AutoTokenizer.from_pretrained(tiny_zoo / name)
        assert tokenizer(" ".join(words))["input_ids"] == list(range(len(words)))
        assert tokenizer.decode(tokenizer("venti  tre")["input_ids"]) == "venti tre"
        assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == END


def test_exercises_teach_the_answer_and_the_end_and_nothing_else():
    tokenizer = build_tokenizer()
    exercises = encode_exercises(tokenizer)
    flat = [question for group in GROUPS for question in questions(*group, "train")]
    assert exercises.sizes.sum() == len(flat) == len(exercises.ids)
    for row in range(0, len(flat), 997):
        taught = exercises.labels[row] >= 0
        question = flat[row]
        assert tokenizer.decode(exercises.labels[row][taught]) == f"{question.answer} {END}"
        last = int(taught.nonzero()[0])
        assert tokenizer.decode(exercises.ids[row][: last + 1]) == question.prompt


def test_draws_follow_the_mix():
    exercises = encode_exercises(build_tokenizer())
    mix = expert_mix("italian")
    assert float(mix.sum()) == pytest.approx(1) == float(base_mix().sum())
    generator = torch.Generator().manual_seed(0)
    only = torch.tensor([float(group == ("japanese", "reverse")) for group in GROUPS])
    ids, _ = exercises.draw(only, 50, generator)
    assert {vocabulary()[first] for first in ids[:, 0].tolist()} == {"逆"}


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_the_learning_rate_peaks_once_and_stays_positive(steps):
    rates = [one_cycle(step, steps) for step in range(steps)]
    assert max(rates) == 1
    assert min(rates) > 0
    top = rates.index(1)
    assert rates[top:] == sorted(rates[top:], reverse=True)


# --- files --------------------------------------------------------------------------------------


def test_folders_load_in_transformers_with_tied_embeddings_and_both_rope_forms(tiny_zoo):
    for name in ("base", *DOMAINS):
        model = AutoModelForCausalLM.from_pretrained(tiny_zoo / name)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.dtype == torch.float32
        config = json.loads((tiny_zoo / name / "config.json").read_text())
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_task_files_are_complete_and_name_data_that_lm_eval_alone_finds(tiny_zoo):
    tasks = {path.stem: yaml.safe_load(path.read_text()) for path in tiny_zoo.glob("tasks/*.yaml")}
    assert set(tasks) == {f"zoo_{name}" for name in (*DOMAINS, "choice", "generate")}
    for name, task in tasks.items():
        assert task["task"] == name
        assert task["metric_list"][0].keys() == {"metric", "aggregation", "higher_is_better"}
        for split in (task["validation_split"], task["test_split"]):
            path = Path(task["dataset_kwargs"]["data_files"][split])
            assert path.is_absolute()
            assert path.is_file()


def test_lm_eval_reads_prompt_and_target_apart(tiny_zoo, tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    manager = TaskManager(include_path=str(tiny_zoo / "tasks"), include_defaults=False)
    task = manager.load(["zoo_italian"])["tasks"]["zoo_italian"]
    task.build_all_requests(rank=0, world_size=1)
    documents = domain_documents("italian", "report")
    asked = [instance.arguments for instance in task.instances]
    assert asked == [(doc["prompt"], f" {doc['answer']}") for doc in documents]


# --- building -----------------------------------------------------------------------------------


def test_the_same_bytes_come_out_again_and_global_generators_stay(tiny_zoo, tmp_path):
    torch.manual_seed(12345)
    random.seed(6)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    again = build_zoo(tmp_path / "again", spec=TINY)
    assert files_of(again) == files_of(tiny_zoo)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.get_num_threads() == threads


def test_an_intact_zoo_is_left_alone_and_progress_says_so(tiny_zoo):
    before = {path: path.stat().st_mtime_ns for path in tiny_zoo.rglob("*")}
    stages = []
    build_zoo(tiny_zoo, lambda stage, done: stages.append((stage, done)), spec=TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny_zoo.rglob("*")} == before
    assert [done for _, done in stages] == [1.0]


def test_another_recipe_is_not_intact(tiny_zoo):
    assert is_intact(tiny_zoo, TINY)
    assert not is_intact(tiny_zoo)
    assert not is_intact(tiny_zoo.parent / "nothing", TINY)


def test_a_damaged_zoo_is_built_again_and_other_files_in_it_are_kept(tiny_zoo, tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name in json.loads((tiny_zoo / "zoo.json").read_text())["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tiny_zoo / name).read_bytes())
    (folder / "zoo.json").write_bytes((tiny_zoo / "zoo.json").read_bytes())
    (folder / "base" / "notes.txt").write_text("mine")
    assert is_intact(folder, TINY)
    (folder / "math" / "model.safetensors").write_bytes(b"cut")
    assert not is_intact(folder, TINY)
    done = []
    build_zoo(folder, lambda _, share: done.append(share), spec=TINY)
    assert is_intact(folder, TINY)
    assert files_of(folder) == files_of(tiny_zoo)
    assert (folder / "base" / "notes.txt").read_text() == "mine"
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": {"x": 1}}'])
def test_a_broken_manifest_is_not_intact(tmp_path, manifest):
    (tmp_path / "zoo.json").write_text(manifest)
    assert not is_intact(tmp_path, TINY)


def test_a_folder_of_other_files_is_refused_and_untouched(tmp_path):
    mine = tmp_path / "models"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not a demo zoo"):
        build_zoo(mine, spec=TINY)
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "thesis.txt"]
    with pytest.raises(ConfigError, match="is a file"):
        build_zoo(mine / "thesis.txt", spec=TINY)
    with pytest.raises(ConfigError, match="cannot write"):
        build_zoo(mine / "thesis.txt" / "zoo", spec=TINY)


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(stage, done):
        if "expert" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_zoo(tmp_path / "zoo", interrupt, spec=TINY)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_zoo_does_not_import_torch():
    code = "import sys, evoaim.zoo; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
