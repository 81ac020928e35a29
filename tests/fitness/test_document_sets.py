"""Search and report documents: where they come from, and that they never meet."""

from pathlib import Path
from typing import Any

import pytest
from toys import everything, load, simple_evaluate, toy_rows, write_task

from fitness.errors import FitnessError
from fitness.harness import Harness


def sets(harness: Harness, task: str) -> tuple[set[str], set[str]]:
    return set(harness.documents(task, "search")), set(harness.documents(task, "report"))


@pytest.mark.parametrize(
    ("splits", "search", "report"),
    [
        ({"train": 9, "validation": 8, "test": 7}, 8, 7),
        ({"train": 9, "test": 7}, 9, 7),
        ({"train": 9, "validation": 8}, 9, 8),  # lm-eval reports validation, as for hellaswag
    ],
)
def test_search_takes_another_split_than_lm_eval_scores(
    tmp_path: Path, tokenizer: Any, splits: dict[str, int], search: int, report: int
) -> None:
    write_task(tmp_path, "t", {s: toy_rows(i, n) for i, (s, n) in enumerate(splits.items())})
    own = load(tmp_path, tokenizer, "t")
    assert own.sizes("search") == {"t": search}
    assert own.sizes("report") == {"t": report}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_single_split_is_divided_by_seed_and_content(
    tmp_path: Path, tokenizer: Any, split: str
) -> None:
    rows = toy_rows(0, 100)
    write_task(tmp_path, "t", {split: rows})
    search, report = sets(load(tmp_path, tokenizer, "t"), "t")
    assert not search & report
    assert len(search) + len(report) == 100
    assert 20 < len(search) < 80  # binomial(100, 1/2): six standard deviations
    assert sets(load(tmp_path, tokenizer, "t"), "t") == (search, report)
    assert sets(load(tmp_path, tokenizer, "t", seed=1), "t") != (search, report)
    write_task(tmp_path, "t", {split: [*reversed(rows), *rows[:10]]})  # content decides, not place
    assert sets(load(tmp_path, tokenizer, "t"), "t") == (search, report)


def test_the_halves_of_a_split_score_as_lm_eval_scores_it(
    tmp_path: Path, tokenizer: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, "t", {"test": toy_rows(0, 30)}, num_fewshot=2, fewshot_split="test")
    own = load(tmp_path, tokenizer, "t")
    got = {}
    for side in ("search", "report"):
        scores = own.score(model, everything(own, side), side)["t/acc"]
        prompts = [d.instances[0].args[0] for d in own._banks["t"][side]._prepared.values()]
        values = zip(prompts, scores.total, strict=True)
        got |= dict(zip(scores.documents, values, strict=True))
    monkeypatch.chdir(tmp_path)
    samples = simple_evaluate(model, tokenizer, tmp_path, ["t"])["samples"]["t"]
    assert got == {s["doc_hash"]: (s["arguments"][0][0], s["acc"]) for s in samples}


def test_overlap_is_refused_with_its_size(tmp_path: Path, tokenizer: Any) -> None:
    rows = toy_rows(0, 20)
    write_task(tmp_path, "t", {"validation": rows[:12], "test": rows[9:]})
    with pytest.raises(
        FitnessError,
        match=r"overlap: 3 of the 11 report documents of task 't' \(split 'test'\) are also search "
        r"documents of task 't' \(split 'validation'\); remove them",
    ):
        load(tmp_path, tokenizer, "t")


def test_overlap_between_two_tasks_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    rows = toy_rows(0, 20)
    write_task(tmp_path, "a", {"validation": rows[:10], "test": toy_rows(1, 5)})
    write_task(tmp_path, "b", {"validation": toy_rows(2, 5), "test": rows[8:]})
    load(tmp_path, tokenizer, "a")
    load(tmp_path, tokenizer, "b")
    with pytest.raises(FitnessError, match="2 of the 12 report documents of task 'b'"):
        load(tmp_path, tokenizer, "a", "b")


def test_too_few_documents_to_divide(tmp_path: Path, tokenizer: Any) -> None:
    write_task(tmp_path, "t", {"test": toy_rows(0, 1)})
    with pytest.raises(FitnessError, match=r"task 't': no \w+ documents in split 'test' \(1 doc"):
        load(tmp_path, tokenizer, "t")
