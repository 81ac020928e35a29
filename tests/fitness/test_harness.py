"""The harness gives lm-eval's own figures, whatever the panel, and leaves the process alone."""

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets.utils
import lm_eval.utils
import numpy as np
import pytest
import torch
from toys import (
    TOY_TASKS,
    everything,
    load,
    metrics,
    simple_evaluate,
    toy_model,
    toy_rows,
    write_task,
)

from fitness.errors import FitnessError, ScoringError
from fitness.harness import Harness
from fitness.types import Panel, Scores, Split

SPLITS: tuple[Split, Split] = ("search", "report")


def theirs(result: dict[str, Any], task: str, metric: str, filtered: str) -> dict[str, Any]:
    """lm-eval's logged value of each document, by content hash."""
    samples = [s for s in result["samples"][task] if s["filter"] == filtered]
    return {s["doc_hash"]: s[metric] for s in samples}


def ours(scores: Scores, key: str) -> dict[str, tuple[float, float]]:
    s = scores[key]
    return dict(
        zip(s.documents, zip(s.total.tolist(), s.weight.tolist(), strict=True), strict=True)
    )


def pairs(values: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """lm-eval's value as (total, weight)."""
    out = {}
    for key, value in values.items():
        if isinstance(value, tuple) and isinstance(value[1], np.ndarray):  # (gold, probabilities)
            value = ((value[1] - np.eye(len(value[1]))[value[0]]) ** 2).sum()
        out[key] = value if isinstance(value, tuple) else (value, 1)
    return out


CASES = (
    ("toy_choice", "acc", "none", "acc"),
    ("toy_choice", "acc_norm", "none", "acc_norm"),
    ("toy_choice", "brier_score", "none", "brier_score"),
    ("toy_greedy", "acc", "none", "acc"),
    ("toy_greedy", "perplexity", "none", "perplexity"),
    ("toy_generate", "exact_match", "first", "exact_match,first"),
    ("toy_generate", "exact_match", "second", "exact_match,second"),
    ("toy_rolling", "word_perplexity", "none", "word_perplexity"),
    ("toy_rolling", "byte_perplexity", "none", "byte_perplexity"),
    ("toy_rolling", "bits_per_byte", "none", "bits_per_byte"),
)


def test_every_score_is_lm_evals_own_for_two_models_in_sequence(
    harness: Harness, tokenizer: Any, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact equality; weights change in place, as candidates' do."""
    live = toy_model(1)
    panel, seen = everything(harness, "report"), []
    monkeypatch.chdir(task_folder)  # lm-eval itself finds data files from here only
    for seed in (1, 2):
        live.load_state_dict(toy_model(seed).state_dict())
        result = simple_evaluate(live, tokenizer, task_folder, TOY_TASKS)
        scores = harness.score(live, panel, "report")
        for task, metric, filtered, name in CASES:
            expected = pairs(theirs(result, task, metric, filtered))
            assert ours(scores, f"{task}/{name}") == expected, (task, name)
            found = harness.metric(task, name)
            table = scores[found.key]
            ratio = table.total.sum() / table.weight.sum()
            assert found.aggregate(ratio, 0.0).value == pytest.approx(
                result["results"][task][f"{metric},{filtered}"], rel=1e-9
            )
        seen.append(scores)
    for key in ("toy_choice/brier_score", "toy_greedy/perplexity", "toy_rolling/bits_per_byte"):
        assert ours(seen[0], key) != ours(seen[1], key)
    rights = [s["toy_generate/exact_match,first"].total.sum() for s in seen]
    assert max(rights) > 0  # not all answers are wrong, so that equality says something


@pytest.mark.parametrize("split", SPLITS)
def test_a_subset_gets_the_scores_it_has_in_the_full_run(
    harness: Harness, model: Any, split: Split
) -> None:
    full = harness.score(model, everything(harness, split), split)
    panel = Panel({"toy_rolling": (3, 7), "toy_choice": (1, 4, 9, 20), "toy_generate": (2, 8)})
    for key, part in harness.score(model, panel, split).items():
        positions = list(panel.documents[key.split("/")[0]])
        documents = harness.documents(key.split("/")[0], split)
        assert part.documents == tuple(documents[p] for p in positions)
        np.testing.assert_allclose(part.total, full[key].total[positions], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(part.weight, full[key].weight[positions])


def prompts(harness: Harness, task: str, split: Split) -> dict[int, str]:
    """Prompts built so far, by position in the split."""
    bank = harness._banks[task][split]
    return {
        bank.documents.positions[p]: str(d.instances[0].args[0]) for p, d in bank._prepared.items()
    }


def test_prompts_do_not_drift(task_folder: Path, tokenizer: Any, model: Any) -> None:
    """Few-shot examples depend on the document, not on panel, order of calls or global state."""
    first, second = (load(task_folder, tokenizer, "toy_choice", "toy_generate") for _ in range(2))
    for split in SPLITS:
        for positions in ((5,), (0, 11), (2, 5, 8)):
            random.seed(positions[0])
            panel = Panel({"toy_choice": positions, "toy_generate": positions})
            first.score(model, panel, split)
        second.score(model, everything(second, split), split)
        for task in ("toy_choice", "toy_generate"):
            few, all_of_them = prompts(first, task, split), prompts(second, task, split)
            assert len(few) == 5
            assert few == {p: all_of_them[p] for p in few}
            assert len(set(all_of_them.values())) == len(all_of_them)


def test_prompts_that_a_task_draws_at_random_do_not_drift_either(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    (tmp_path / "draw.py").write_text(
        "import random\ndef text(doc):\n    return f'w{random.randrange(12)} {doc[\"question\"]}'\n"
    )
    write_task(tmp_path, "drawn", {"test": toy_rows(0, 40)}, doc_to_text=None)
    with (tmp_path / "drawn.yaml").open("a") as file:
        file.write("doc_to_text: !function draw.text\n")
    one, other = (load(tmp_path, tokenizer, "drawn") for _ in range(2))
    one.score(model, Panel({"drawn": (3, 7)}), "search")
    other.score(model, everything(other, "search"), "search")
    few, all_of_them = prompts(one, "drawn", "search"), prompts(other, "drawn", "search")
    assert few == {p: all_of_them[p] for p in few}
    assert len({prompt.split()[0] for prompt in all_of_them.values()}) > 1


@pytest.mark.parametrize("sampler", ["default", "first_n"])
@pytest.mark.parametrize("splits", [("validation", "test"), ("test",), ("train", "test")])
def test_a_document_is_never_its_own_example(
    tmp_path: Path, tokenizer: Any, model: Any, splits: tuple[str, ...], sampler: str
) -> None:
    rows = {s: toy_rows(i, 12) for i, s in enumerate(splits)}
    write_task(
        tmp_path,
        "shots",
        rows,
        num_fewshot=5,
        fewshot_config={"sampler": sampler},
        doc_to_text="{{id}} : {{question}}",
    )
    own = load(tmp_path, tokenizer, "shots")
    for split in SPLITS:
        own.score(model, everything(own, split), split)
        for prompt in prompts(own, "shots", split).values():
            blocks = [line.split(" : ")[0] for line in prompt.split("\n\n")]
            assert len(blocks) == 6
            assert blocks[-1] not in blocks[:-1]


@contextmanager
def watched() -> Iterator[None]:
    """Fails if the block moves a global generator, a log level, a progress bar or a warning."""
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    names = ("lm_eval", "datasets", "transformers")
    levels = [logging.getLogger(n).level for n in names]
    bars = datasets.utils.are_progress_bars_disabled()
    yield
    drawn = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    assert levels == [logging.getLogger(n).level for n in names]
    assert bars == datasets.utils.are_progress_bars_disabled()
    assert "from_string" not in vars(lm_eval.utils.env)


def test_the_process_is_left_as_it_was_and_nothing_is_printed(
    tmp_path: Path,
    tokenizer: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_task(
        tmp_path,
        "sampled",
        {"validation": toy_rows(0, 6), "test": toy_rows(1, 6)},
        output_type="generate_until",
        num_fewshot=2,
        generation_kwargs={"do_sample": True, "temperature": 1.0, "max_gen_toks": 8},
        metric_list=metrics("exact_match"),
    )
    write_task(tmp_path, "rolling", {"test": toy_rows(2, 8)}, output_type="loglikelihood_rolling")
    live = toy_model(0)
    with watched():
        own = load(tmp_path, tokenizer, "sampled", "rolling")
    with watched():
        own.score(live, everything(own, "report"), "report")
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")


def test_sampled_generation_is_the_same_for_the_same_model(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    write_task(
        tmp_path,
        "sampled",
        {"test": toy_rows(1, 40)},
        output_type="generate_until",
        doc_to_target="{{answer}}",
        generation_kwargs={"do_sample": True, "temperature": 1.0, "max_gen_toks": 1},
        metric_list=metrics("exact_match"),
    )
    own = load(tmp_path, tokenizer, "sampled")
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        own.score(model, everything(own, "search"), "search")
        bank = own._banks["sampled"]["search"]
        answers.append([d.instances[0].resps[0] for d in bank._prepared.values()])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


def test_chat_template_and_generation_cap_reach_the_model(
    task_folder: Path, tokenizer: Any, model: Any
) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}"
    own = load(task_folder, chatty, "toy_generate", max_gen_toks=2)
    assert own.chat
    own.score(model, Panel({"toy_generate": (0,)}), "report")
    request = own._banks["toy_generate"]["report"]._prepared[0].instances[0]
    assert request.args[0].count("w1 ") >= 3  # question, answer, question
    assert request.args[0].startswith("w1 ")
    assert len(request.resps[0].split()) <= 2
    plain = load(task_folder, chatty, "toy_generate", chat_template="no")
    assert not plain.chat
    assert load(task_folder, tokenizer, "toy_generate").chat is False
    with pytest.raises(FitnessError, match="the tokenizer has no chat template"):
        load(task_folder, tokenizer, "toy_generate", chat_template="yes")


def test_out_of_memory_is_met_with_smaller_batches(
    harness: Harness, task_folder: Path, tokenizer: Any, model: Any
) -> None:
    panel = Panel({"toy_greedy": tuple(range(20))})
    expected = harness.score(model, panel, "search")["toy_greedy/perplexity"]
    small, limit = toy_model(0), 5

    def refuse(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[0] > limit:
            raise torch.OutOfMemoryError("planted")

    small.register_forward_pre_hook(refuse)
    own = load(task_folder, tokenizer, "toy_greedy")
    got = own.score(small, panel, "search")["toy_greedy/perplexity"]
    np.testing.assert_allclose(got.total, expected.total, rtol=1e-5, atol=1e-6)
    limit = 0
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        own.score(small, panel, "search")


def test_a_model_without_numbers_is_a_scoring_error(harness: Harness) -> None:
    broken = toy_model(0)
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    for task in ("toy_choice", "toy_rolling"):
        with pytest.raises(ScoringError, match="not numbers"):
            harness.score(broken, Panel({task: (0, 1)}), "search")


def test_panels_that_do_not_fit(harness: Harness, model: Any) -> None:
    with pytest.raises(FitnessError, match=r"document 25 asked for, the search set has 25"):
        harness.score(model, Panel({"toy_choice": (0, 25)}), "search")
    with pytest.raises(FitnessError, match="unknown task 'toy_chocie'; did you mean: toy_choice"):
        harness.score(model, Panel({"toy_chocie": (0,)}), "search")
    assert harness.score(model, Panel({}), "search") == {}
    empty = harness.score(model, Panel({"toy_choice": ()}), "search")
    assert empty["toy_choice/acc"].documents == ()


def test_the_tokenizer_given_is_not_touched(task_folder: Path, tokenizer: Any, model: Any) -> None:
    fresh = copy.deepcopy(tokenizer)
    fresh.pad_token = None  # lm-eval chooses one where there is none
    own = load(task_folder, fresh, *TOY_TASKS)
    own.score(model, Panel({"toy_generate": (0, 1)}), "search")
    assert fresh.pad_token_id is None
