"""Finding and loading tasks by name: user's folder first, and one clear message for bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import TOY_TASKS, everything, load, metrics, toy_rows, write_task

from fitness.errors import FitnessError, ScoringError
from fitness.harness import Harness
from fitness.types import HarnessConfig, Panel

SOFT = ("probability", "nll")
SPLITS = {"validation": toy_rows(0, 6), "test": toy_rows(1, 6)}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_data_files_are_found_from_any_working_directory(
    tmp_path: Path, tokenizer: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the YAML that names them, be it the task's or one that it includes."""
    write_task(tmp_path / "tasks" / "data", "own", SPLITS)
    elsewhere = {"validation": toy_rows(2, 6), "test": toy_rows(3, 6)}
    write_task(tmp_path / "tasks" / "templates", "base", elsewhere)
    (tmp_path / "tasks" / "child.yaml").write_text(
        "include: templates/base.yaml\ntask: child\ndoc_to_text: 'w1 {{question}}'\n"
    )
    monkeypatch.chdir(tmp_path)
    own = load(Path("tasks"), tokenizer, "own", "child")
    assert own.sizes("report") == {"own": 6, "child": 6}
    names = {f"{t}/{m}" for t in ("own", "child") for m in ("acc", "probability", "nll")}
    assert set(own.score(model, everything(own, "report"), "report")) == names


def test_groups_and_tags_expand_to_their_leaf_tasks(tmp_path: Path, tokenizer: Any) -> None:
    for i, name in enumerate("abcd"):
        rows = {"validation": toy_rows(10 * i, 5), "test": toy_rows(10 * i + 1, 5)}
        write_task(tmp_path / "in", name, rows, tag=["odd"] if name in "ac" else [])
    (tmp_path / "pair.yaml").write_text("group: pair\ntask: [a, b]\n")
    (tmp_path / "all.yaml").write_text(
        "group: all\ntask:\n  - pair\n  - task: c\n    num_fewshot: 1\n    fewshot_split: test\n"
    )
    own = load(tmp_path, tokenizer, "all", "d")
    assert own.tasks == ("a", "b", "c", "d")
    assert own.leaves("all") == ("a", "b", "c")
    assert own.leaves("d") == ("d",)
    assert own.leaves("b") == ("b",)
    assert load(tmp_path, tokenizer, "odd").leaves("odd") == ("a", "c")
    with pytest.raises(FitnessError, match="'c' is asked for twice with different settings"):
        load(tmp_path, tokenizer, "all", "c")


def test_unknown_tasks_are_answered_with_the_nearest_names(
    task_folder: Path, tokenizer: Any
) -> None:
    """The user's tasks and lm-eval's bundled ones are both offered."""
    with pytest.raises(FitnessError, match="unknown task 'toy_chioce'; did you mean: toy_choice"):
        load(task_folder, tokenizer, "toy_rolling", "toy_chioce")
    with pytest.raises(FitnessError, match="unknown task 'hellaswga'; did you mean: hellaswag"):
        load(task_folder, tokenizer, "hellaswga")
    with pytest.raises(FitnessError, match="task_path: no folder 'nowhere'"):
        load(Path("nowhere"), tokenizer, "hellaswag")


def test_a_yaml_that_cannot_be_read_is_named(tmp_path: Path, tokenizer: Any) -> None:
    write_task(tmp_path, "fine", SPLITS)
    (tmp_path / "broken.yaml").write_text("task: broken\n  bad: [indent\n")
    load(tmp_path, tokenizer, "fine")
    with pytest.raises(FitnessError, match=r"unknown task 'broken'.*broken\.yaml was skipped"):
        load(tmp_path, tokenizer, "broken")


def without_data(folder: Path) -> None:
    (folder / "t_test.jsonl").unlink()


def with_unknown_split(folder: Path) -> None:
    edit(folder / "t.yaml", validation_split="valid")


def with_broken_template(folder: Path) -> None:
    edit(folder / "t.yaml", doc_to_text="{{question")


def without_test_and_validation(folder: Path) -> None:
    edit(folder / "t.yaml", test_split=None, validation_split=None, training_split="test")


def with_images(folder: Path) -> None:
    edit(folder / "t.yaml", doc_to_image="picture")


def with_unsafe_code(folder: Path) -> None:
    edit(folder / "t.yaml", unsafe_code=True)


def with_missing_function(folder: Path) -> None:
    with (folder / "t.yaml").open("a") as file:
        file.write("process_results: !function judge.judge\n")


def with_too_many_examples(folder: Path) -> None:
    edit(folder / "t.yaml", num_fewshot=6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_data, r"task 't' cannot be loaded: FileNotFoundError: .*t_test\.jsonl"),
        (with_unknown_split, r"task 't'.*'valid'"),
        (with_broken_template, r"task 't' cannot be loaded: TemplateSyntaxError"),
        (without_test_and_validation, r"task 't' cannot be loaded: .*valid or test docs"),
        (with_missing_function, "task 't' cannot be loaded: ImportError: .*'judge'"),
        (with_images, "task 't' needs images or sound"),
        (with_unsafe_code, "task 't' executes code that the model writes"),
        (with_too_many_examples, "task 't': 6 few-shot examples asked for, 5 documents"),
    ],
)
def test_a_bad_task_is_one_clear_message(
    tmp_path: Path, tokenizer: Any, spoil: Callable[[Path], None], message: str
) -> None:
    write_task(tmp_path, "t", SPLITS)
    load(tmp_path, tokenizer, "t")
    spoil(tmp_path)
    with pytest.raises(FitnessError, match=message):
        load(tmp_path, tokenizer, "t")


def test_unsafe_code_can_be_allowed(tmp_path: Path, tokenizer: Any) -> None:
    write_task(tmp_path, "t", SPLITS, unsafe_code=True)
    assert load(tmp_path, tokenizer, "t", allow_unsafe_code=True).tasks == ("t",)


def test_bad_prompts_and_answers_are_clear_when_they_are_met(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    only = Panel({"t": (0,)})
    write_task(tmp_path, "t", SPLITS, doc_to_target="")
    with pytest.raises(FitnessError, match=r"the answer '' adds 0 tokens .* a leading space"):
        load(tmp_path, tokenizer, "t").score(model, only, "search")
    generating = {"output_type": "generate_until", "metric_list": metrics("exact_match")}
    write_task(tmp_path, "t", SPLITS, **generating)
    with pytest.raises(FitnessError, match=r"up to 256 tokens, the model's context holds 64; set"):
        load(tmp_path, tokenizer, "t").score(model, only, "search")
    load(tmp_path, tokenizer, "t", max_gen_toks=4).score(model, only, "search")
    (tmp_path / "judge.py").write_text("def judge(doc, results):\n    return {'acc': 1 / 0}\n")
    write_task(tmp_path, "t", SPLITS)
    with (tmp_path / "t.yaml").open("a") as file:
        file.write("process_results: !function judge.judge\n")
    with pytest.raises(ScoringError, match=r"task 't' cannot judge the answer .*ZeroDivisionError"):
        load(tmp_path, tokenizer, "t").score(model, only, "search")


def test_metrics_of_a_task(harness: Harness) -> None:
    names = {t: [m.name for m in harness.metrics(t)] for t in TOY_TASKS}
    assert names == {
        "toy_choice": [
            "acc",
            "acc_norm",
            "brier_score",
            *SOFT,
        ],  # mcc does not add up over documents
        "toy_greedy": ["acc", "perplexity", *SOFT],
        "toy_generate": ["exact_match,first", "exact_match,second", "response_length"],
        "toy_rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    }
    assert harness.metric("toy_choice").name == "acc"
    assert harness.metric("toy_choice", "acc,none").name == "acc"
    assert harness.metric("toy_generate", "exact_match").name == "exact_match,first"
    assert harness.metric("toy_generate", "exact_match,second").key.endswith("exact_match,second")
    assert [harness.metric(t).goal for t in TOY_TASKS] == ["maximize"] * 3 + ["minimize"]
    links = [harness.metric("toy_rolling", n).link for n in names["toy_rolling"]]
    assert links == ["exp_neg_mean", "exp_neg_mean", "bits"]
    with pytest.raises(FitnessError, match="unknown metric 'ac_norm'; did you mean: acc_norm"):
        harness.metric("toy_choice", "ac_norm")
    with pytest.raises(FitnessError, match="metric 'mcc' is computed over all documents at once"):
        harness.metric("toy_choice", "mcc")
    with pytest.raises(FitnessError, match="unknown metric 'exact_match,third'"):
        harness.metric("toy_generate", "exact_match,third")


def test_fewshot_numbers_follow_simple_evaluate(tmp_path: Path, tokenizer: Any) -> None:
    for name, examples in (("none", None), ("zero", 0), ("two", 2)):
        rows = {"validation": toy_rows(hash_of(name), 6), "test": toy_rows(hash_of(name) + 1, 6)}
        settings = {} if examples is None else {"num_fewshot": examples}
        write_task(tmp_path, name, rows, **settings)
    for asked, expected in ((None, (0, 0, 2)), (3, (3, 0, 3))):
        config = HarnessConfig(("none", "zero", "two"), tmp_path, num_fewshot=asked)
        own = Harness.load(config, tokenizer)
        assert tuple(own._task(t).config.num_fewshot for t in own.tasks) == expected


def hash_of(name: str) -> int:
    return 10 * sum(map(ord, name))
