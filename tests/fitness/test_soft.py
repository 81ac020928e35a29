"""Our own measures: what they are, where they exist, and that a task's own come first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import everything, load, metrics, toy_model, toy_rows, write_task

from fitness.errors import FitnessError
from fitness.harness import Harness
from fitness.types import Scores

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
}


def log_likelihoods(harness: Harness, task: str) -> list[list[float]]:
    bank = harness._banks[task]["report"]
    return [[i.resps[0][0] for i in d.instances] for _, d in sorted(bank._prepared.items())]


def golds(harness: Harness, task: str) -> list[int]:
    documents = harness._banks[task]["report"].documents
    return [documents.source[p]["gold"] for p in documents.positions]


def whole(harness: Harness, model: Any) -> Scores:
    return harness.score(model, everything(harness, "report"), "report")


def test_probability_of_choices_is_a_softmax_and_agrees_with_lm_evals_brier_score(
    harness: Harness, model: Any
) -> None:
    scores = whole(harness, model)
    lls = np.array(log_likelihoods(harness, "toy_choice"))
    gold = golds(harness, "toy_choice")
    softmax = np.exp(lls) / np.exp(lls).sum(1, keepdims=True)
    right = softmax[range(len(gold)), gold]
    np.testing.assert_allclose(scores["toy_choice/probability"].total, right, rtol=1e-9)
    np.testing.assert_allclose(
        scores["toy_choice/nll"].total, -lls[range(len(gold)), gold], rtol=1e-9
    )
    wrong = (softmax**2).sum(1) - right**2
    brier = scores["toy_choice/brier_score"].total
    np.testing.assert_allclose(brier, (1 - right) ** 2 + wrong, rtol=1e-9)


def test_probability_of_a_target_is_lm_evals_log_likelihood(harness: Harness, model: Any) -> None:
    scores = whole(harness, model)
    theirs = scores["toy_greedy/perplexity"].total
    np.testing.assert_array_equal(scores["toy_greedy/nll"].total, -theirs)
    np.testing.assert_allclose(scores["toy_greedy/probability"].total, np.exp(theirs), rtol=1e-12)


def test_several_right_choices_share_their_probability(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    rows = {"validation": toy_rows(0, 5), "test": toy_rows(1, 8)}
    write_task(tmp_path, "two", rows, **CHOICE | {"doc_to_target": "[{{gold}}, {{(gold+1) % 3}}]"})
    own = load(tmp_path, tokenizer, "two")
    scores = whole(own, model)
    lls, gold = np.array(log_likelihoods(own, "two")), np.array(golds(own, "two"))
    p = np.exp(lls)
    both = p[range(8), gold] + p[range(8), (gold + 1) % 3]
    np.testing.assert_allclose(scores["two/probability"].total, both / p.sum(1), rtol=1e-9)
    np.testing.assert_allclose(scores["two/nll"].total, -np.log(both), rtol=1e-9)


def test_choices_with_contexts_of_their_own(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    """As winogrande: doc_to_text is the label, the choices are contexts, the target is common."""
    rows = {"validation": toy_rows(0, 5), "test": toy_rows(1, 8)}
    settings = {"doc_to_text": "{{gold}}", "doc_to_target": "{{answer}}"}
    write_task(tmp_path, "many", rows, **CHOICE | settings)
    own = load(tmp_path, tokenizer, "many")
    scores = whole(own, model)
    lls, gold = np.array(log_likelihoods(own, "many")), golds(own, "many")
    bank = own._banks["many"]["report"]._prepared[0]
    assert len({i.args[0] for i in bank.instances}) == 3
    assert len({i.args[1] for i in bank.instances}) == 1
    p = np.exp(lls)
    np.testing.assert_allclose(
        scores["many/probability"].total, p[range(8), gold] / p.sum(1), rtol=1e-9
    )
    accurate = scores["many/acc"].total.astype(bool)
    assert (scores["many/probability"].total[accurate] > 1 / 3).all()


def test_choices_without_context_are_left_out(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    """Of `acc_mutual_info`, which doubles the requests."""
    rows = {"validation": toy_rows(0, 5), "test": toy_rows(1, 8)}
    for name, asked in (("plain", "acc"), ("mutual", "acc_mutual_info")):
        write_task(tmp_path, name, rows, **CHOICE, metric_list=metrics("acc", asked))
    scores = [whole(load(tmp_path, tokenizer, t), model) for t in ("plain", "mutual")]
    np.testing.assert_allclose(
        scores[0]["plain/probability"].total, scores[1]["mutual/probability"].total, rtol=1e-5
    )


def test_a_missing_label_has_no_value(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    rows = toy_rows(1, 8)
    write_task(
        tmp_path, "t", {"validation": toy_rows(0, 5), "test": [*rows[:7], rows[7] | {"gold": -1}]},
        **CHOICE,
    )  # fmt: skip
    scores = whole(load(tmp_path, tokenizer, "t"), model)
    assert scores["t/probability"].weight.tolist() == [1.0] * 7 + [0.0]
    assert scores["t/nll"].weight.tolist() == [1.0] * 7 + [0.0]
    assert scores["t/acc"].weight.tolist() == [1.0] * 8


def test_a_task_whose_label_cannot_be_read_has_no_probability(
    tmp_path: Path, tokenizer: Any
) -> None:
    rows = {"validation": toy_rows(0, 5), "test": toy_rows(1, 8)}
    write_task(tmp_path, "t", rows, **CHOICE | {"doc_to_target": "none of them"})
    own = load(tmp_path, tokenizer, "t")
    assert [m.name for m in own.metrics("t")] == ["acc"]


def test_response_length_counts_tokens_of_the_text(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    write_task(
        tmp_path,
        "t",
        {"validation": toy_rows(0, 5), "test": toy_rows(1, 12)},
        output_type="generate_until",
        repeats=2,
        generation_kwargs={"until": ["w3"], "max_gen_toks": 6, "do_sample": True, "temperature": 1},
        metric_list=metrics("exact_match"),
    )
    own = load(tmp_path, tokenizer, "t")
    table = whole(own, model)["t/response_length"]
    bank = own._banks["t"]["report"]
    texts = [d.instances[0].resps for _, d in sorted(bank._prepared.items())]
    expected = [sum(len(t.split()) for t in pair) / 2 for pair in texts]  # a word is a token here
    assert table.total.tolist() == expected
    assert table.weight.tolist() == [1.0] * 12
    assert max(expected) <= 6
    assert len(set(expected)) > 1
    assert any("w3" not in t for pair in texts for t in pair)


def test_no_second_forward_pass(harness: Harness) -> None:
    counted, calls = toy_model(0), []
    counted.register_forward_pre_hook(lambda *_: calls.append(1))
    table = whole(harness, counted)
    first = len(calls)
    bank = harness._banks["toy_choice"]["report"]
    assert table["toy_choice/probability"].weight.sum() == len(bank.documents.positions)
    assert first < 100  # 30 choices x 3, 60 targets, 10 rolling texts by 16, 12 answers of 6 tokens
    harness.score(counted, everything(harness, "report"), "report")
    assert len(calls) == 2 * first


def test_a_task_keeps_its_own_metric_of_that_name(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    (tmp_path / "own.py").write_text("def judge(doc, results):\n    return {'probability': 7.0}\n")
    rows = {"validation": toy_rows(0, 5), "test": toy_rows(1, 8)}
    write_task(tmp_path, "t", rows, metric_list=metrics("probability", higher=False))
    with (tmp_path / "t.yaml").open("a") as file:
        file.write("process_results: !function own.judge\n")
    own = load(tmp_path, tokenizer, "t")
    assert [(m.name, m.goal) for m in own.metrics("t")] == [
        ("probability", "minimize"),
        ("nll", "minimize"),
    ]
    assert whole(own, model)["t/probability"].total.tolist() == [7.0] * 8


def test_goals_links_and_order(harness: Harness) -> None:
    for task, name, goal in (
        ("toy_choice", "probability", "maximize"),
        ("toy_greedy", "nll", "minimize"),
        ("toy_generate", "response_length", "minimize"),
    ):
        metric = harness.metric(task, name)
        assert (metric.key, metric.goal, metric.link) == (f"{task}/{name}", goal, "mean")
        assert metric != harness.metric(task)  # the first is the task's
    with pytest.raises(FitnessError, match="unknown metric 'probabilty'; did you mean: probabil"):
        harness.metric("toy_choice", "probabilty")
    with pytest.raises(FitnessError, match="unknown metric 'nll'"):
        harness.metric("toy_rolling", "nll")


def test_labels_follow_the_documents(harness: Harness, tmp_path: Path, tokenizer: Any) -> None:
    assert harness.labels("toy_choice", "report", "id") == tuple(f"3-{i}" for i in range(30))
    assert set(harness.labels("toy_choice", "search", "gold")) <= {"0", "1", "2"}
    with pytest.raises(FitnessError, match="unknown document field 'idd'; did you mean: id"):
        harness.labels("toy_choice", "report", "idd")
    with pytest.raises(FitnessError, match="unknown task 'x'"):
        harness.labels("x", "report", "id")
    write_task(tmp_path, "one", {"test": toy_rows(0, 30)})  # divided in halves
    own = load(tmp_path, tokenizer, "one")
    search, report = (own.labels("one", side, "id") for side in ("search", "report"))
    assert len(search) == own.sizes("search")["one"]
    assert {*search, *report} == {f"0-{i}" for i in range(30)}
