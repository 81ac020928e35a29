"""Ways to get wrong numbers out of lm-eval and transformers, one test for each that concerns us.

Tested elsewhere, because it is a law of its own:
    few-shot examples that move with every build, or with the panel: `test_prompts_do_not_drift`;
    a cap on generation set after building: `test_chat_template_and_generation_cap_reach_the_model`;
    an answer that fuses with its prompt: `test_bad_prompts_and_answers_are_clear_...`;
    a task that executes code: `test_a_bad_task_is_one_clear_message`.
Excluded by construction: `use_cache` and `cache_requests` (no code path sets them; what they would
do is tested below), bootstrap pools and stderr columns (lm-eval's aggregation is never called).
Not ours: transformers reading a saved tokenizer as another class; a tokenizer is given to us.
"""

import copy
import subprocess
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import processors
from toys import TOY_TASKS, config, everything, load, metrics, toy_model, toy_rows, write_task
from transformers import GenerationConfig

from fitness._batch import MOST, fitting
from fitness.errors import FitnessError
from fitness.harness import Harness
from fitness.types import Panel, Scores

SPLITS = {"validation": toy_rows(0, 6), "test": toy_rows(1, 6)}
GENERATING = {
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": metrics("exact_match"),
}


def totals(scores: Scores) -> dict[str, list[float]]:
    return {key: s.total.tolist() for key, s in scores.items()}


def texts(harness: Harness, task: str) -> list[str]:
    """Responses of the report documents scored so far."""
    bank = harness._banks[task]["report"]
    return [d.instances[0].resps[0] for _, d in sorted(bank._prepared.items())]


def test_answers_of_the_last_model_are_not_kept(
    harness: Harness, task_folder: Path, tokenizer: Any
) -> None:
    """The default filter takes the first answer in the list, whoever gave it."""
    panel = everything(harness, "report")
    one, other = (totals(harness.score(toy_model(s), panel, "report")) for s in (1, 2))
    assert all(one[k] != other[k] for k in ("toy_choice/nll", "toy_rolling/bits_per_byte"))
    fresh = load(task_folder, tokenizer, *TOY_TASKS)
    assert totals(fresh.score(toy_model(2), panel, "report")) == other


@pytest.mark.parametrize("positions", [(4, 2), (2, 2, 4), (-1, 2)])
def test_unsorted_and_repeated_documents_are_refused(positions: tuple[int, ...]) -> None:
    with pytest.raises(FitnessError, match="sorted, unique and not negative"):
        Panel({"toy_choice": positions})


def test_a_task_without_documents_runs_nothing(harness: Harness) -> None:
    """lm-eval runs all documents of a task that `samples` leaves out or leaves empty."""
    live, calls = toy_model(0), []
    live.register_forward_pre_hook(lambda *_: calls.append(1))
    harness.score(live, Panel({"toy_choice": (), "toy_generate": ()}), "report")
    harness.score(live, Panel({}), "report")
    assert not calls


def test_requests_belong_to_the_data_they_were_built_from(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    """lm-eval's request cache has neither content nor panel in its key."""
    found = []
    for seed in (1, 2):
        write_task(tmp_path, "t", {**SPLITS, "test": toy_rows(seed, 6)})
        own = load(tmp_path, tokenizer, "t")
        for positions in ((0, 1), (2, 3)):
            found.append(totals(own.score(model, Panel({"t": positions}), "report"))["t/nll"])
    assert len({tuple(nll) for nll in found}) == 4


def test_tasks_are_indexed_and_documents_processed_once(
    tmp_path: Path, tokenizer: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count.py").write_text(
        "from pathlib import Path\n"
        "def process(split):\n"
        "    with Path(__file__).with_name('calls').open('a') as f:\n"
        "        f.write('x')\n"
        "    return split\n"
    )
    write_task(tmp_path, "t", SPLITS)
    with (tmp_path / "t.yaml").open("a") as file:
        file.write("process_docs: !function count.process\n")
    own = load(tmp_path, tokenizer, "t")
    calls = (tmp_path / "calls").read_text()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("indexed again")

    monkeypatch.setattr(lm_eval.tasks.TaskManager, "__init__", refuse)
    for _ in range(2):
        own.score(model, everything(own, "report"), "report")
        own.metrics("t")
        own.labels("t", "report", "id")
    assert (tmp_path / "calls").read_text() == calls


def test_documents_are_known_by_content_not_place(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    found = []
    for rows in (SPLITS["test"], SPLITS["test"][::-1]):
        write_task(tmp_path, "t", {**SPLITS, "test": rows})
        own = load(tmp_path, tokenizer, "t")
        scores = own.score(model, everything(own, "report"), "report")["t/nll"]
        found.append(dict(zip(scores.documents, scores.total.tolist(), strict=True)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert list(found[0]) == list(found[1])[::-1]


@pytest.mark.parametrize("batch_size", [5, "auto"])
def test_low_precision_scores_depend_on_the_weights_alone(
    task_folder: Path, tokenizer: Any, batch_size: Any
) -> None:
    """Batches are the same for every candidate: to the last bit, whoever was scored between."""
    own = load(task_folder, tokenizer, *TOY_TASKS, batch_size=batch_size)
    live = toy_model(1).bfloat16()
    panel, found = everything(own, "report"), []
    for seed in (1, 2, 1):
        live.load_state_dict(toy_model(seed).state_dict())
        found.append(totals(own.score(live, panel, "report")))
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_an_automatic_batch_size_is_chosen_once_and_silently(
    task_folder: Path,
    tokenizer: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("probed")

    monkeypatch.setattr(HFLM, "_detect_batch_size", refuse)
    own = load(task_folder, tokenizer, *TOY_TASKS, batch_size="auto")
    own.score(toy_model(0), Panel({}), "search")
    assert own._runner.batch_size == "auto"  # no request, nothing to choose by
    sizes: list[object] = []
    for panel in (Panel({"toy_greedy": (0, 1)}), everything(own, "search")):
        own.score(toy_model(0), panel, "search")
        sizes.append(own._runner.batch_size)
    assert sizes == [MOST, MOST]
    assert capfd.readouterr().out == ""


def test_an_automatic_batch_size_is_halved_for_good(task_folder: Path, tokenizer: Any) -> None:
    own = load(task_folder, tokenizer, "toy_greedy", batch_size="auto")
    small, sizes = toy_model(0), []

    def refuse(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        sizes.append(args[0].shape[0])
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("planted")

    small.register_forward_pre_hook(refuse)
    for _ in range(2):
        own.score(small, everything(own, "report"), "report")  # 60 documents
    assert own._runner.batch_size == 16
    tried = [s for s in sizes if s > 20]
    assert tried == [59, 59, 59, 32]  # two prompts are equal; 256, 128 and 64 take them all
    assert sizes[:4] == tried  # nothing too large was tried again


def test_the_first_batch_size_follows_memory() -> None:
    gib = 2.0**30
    assert fitting(1, 100, 8 * gib) == MOST
    assert fitting(1024, 150_000, 64 * gib) == 32
    assert fitting(1024, 150_000, 0.0) == 1
    for length in (7, 100, 1000):
        for memory in (1e6, 1e8, 1e10):
            size = fitting(length, 32_000, memory)
            assert size == 1 or size * 8 * length * 32_000 <= memory
            assert size == MOST or 2 * size * 8 * length * 32_000 > memory


def test_padding_does_not_change_answers(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    rows = toy_rows(1, 12)
    rows[0]["question"] = "w1"  # the shortest prompt is padded most
    write_task(tmp_path, "t", {**SPLITS, "test": rows}, **GENERATING)
    write_task(tmp_path, "u", {"validation": toy_rows(4, 6), "test": toy_rows(5, 12)})
    together, alone = (load(tmp_path, tokenizer, "t", "u", batch_size=n) for n in (16, 1))
    sides = together._runner.tokenizer.padding_side
    panel = everything(together, "report")
    scores = [totals(own.score(model, panel, "report")) for own in (together, alone)]
    assert texts(together, "t") == texts(alone, "t")
    assert len(set(texts(alone, "t"))) > 1
    np.testing.assert_allclose(scores[0]["u/nll"], scores[1]["u/nll"], rtol=1e-5)
    assert together._runner.tokenizer.padding_side == sides == tokenizer.padding_side


def test_all_models_generate_by_the_bases_generation_config(
    tmp_path: Path, tokenizer: Any, model: Any
) -> None:
    write_task(tmp_path, "t", SPLITS, **GENERATING)
    base = GenerationConfig(repetition_penalty=5.0, eos_token_id=2, pad_token_id=2)
    own = Harness.load(config(tmp_path, "t"), tokenizer, base)
    free = load(tmp_path, tokenizer, "t")
    penalised = toy_model(0)
    penalised.generation_config = base
    answers = []
    for harness, live in ((own, model), (free, penalised), (free, model)):
        harness.score(live, everything(harness, "report"), "report")
        answers.append(texts(harness, "t"))
    assert answers[0] == answers[1] != answers[2]
    assert model.generation_config.repetition_penalty in {None, 1.0}  # given back


def test_generation_keeps_keys_and_values_whatever_the_config_says(
    tmp_path: Path, tokenizer: Any
) -> None:
    write_task(tmp_path, "t", SPLITS, **GENERATING)
    own, live, widths = load(tmp_path, tokenizer, "t"), toy_model(0), []
    live.config.use_cache = live.generation_config.use_cache = False
    live.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: widths.append(args[0].shape[1])
    )
    own.score(live, Panel({"t": (0,)}), "report")
    assert widths[0] > 1
    assert set(widths[1:]) == {1}


def test_a_group_is_its_tasks(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    """lm-eval weighs a group's mean by the counts that were run; we keep no mean of a group."""
    for i, name in enumerate("ab"):
        rows = {"validation": toy_rows(10 * i, 5), "test": toy_rows(10 * i + 1, 5)}
        write_task(tmp_path, name, rows)
    (tmp_path / "g.yaml").write_text(
        "group: g\ntask: [a, b]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    own = load(tmp_path, tokenizer, "g")
    scores = own.score(model, Panel({"a": (0,), "b": (1, 2, 3)}), "report")
    assert {key.split("/")[0] for key in scores} == {"a", "b"}
    assert [len(scores[f"{t}/acc"].total) for t in "ab"] == [1, 3]


def test_no_subprocess_is_started(
    tmp_path: Path, tokenizer: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("subprocess")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    write_task(tmp_path, "t", SPLITS)
    own = load(tmp_path, tokenizer, "t")
    own.score(model, everything(own, "report"), "report")


def test_requests_are_built_once_and_not_copied(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    write_task(tmp_path, "t", SPLITS)
    own = load(tmp_path, tokenizer, "t")
    kept = []
    for _ in range(2):
        own.score(model, everything(own, "report"), "report")
        kept.append([id(d.instances[0]) for d in own._banks["t"]["report"]._prepared.values()])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("bos", [True, False])
def test_prefix_is_the_tokenizers_own(
    tmp_path: Path, tokenizer: Any, model: Any, bos: bool
) -> None:
    """One known score end to end: by hand from the logits, with BOS where the tokenizer adds it."""
    own_tokenizer = copy.deepcopy(tokenizer)
    if bos:
        own_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    write_task(tmp_path, "t", SPLITS)
    own = load(tmp_path, own_tokenizer, "t")
    found = own.score(model, everything(own, "report"), "report")["t/nll"].total
    row = SPLITS["test"][0]
    ids = own_tokenizer(f"{row['question']} {row['answer']}").input_ids
    assert (ids[0] == 1) is bos
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    expected = -logits.log_softmax(-1)[-2, ids[-1]].item()
    assert found[0] == pytest.approx(expected, rel=1e-5)
