"""Texts: lm-eval's log-likelihoods, transformers' loss, the exact KL, and halves by content."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from toys import WORDS, toy_model
from transformers import LlamaConfig, LlamaForCausalLM

from fitness import _windows
from fitness.errors import FitnessError, ScoringError
from fitness.texts import TextConfig, TextHarness
from fitness.types import Panel, Scores, Split

SPLITS: tuple[Split, Split] = ("search", "report")


def some_texts(seed: int, n: int = 30) -> list[str]:
    """Of 1 to 200 words, so that some are longer than the context of 64, or just as long."""
    rng = random.Random(seed)
    lengths = [1, 63, 64, 65, 128, 129, *(rng.randint(2, 200) for _ in range(n - 6))]
    return [" ".join(rng.choices(WORDS, k=k)) for k in lengths]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "id": 1}) for t in some_texts(0)) + "\n\n")
    return str(path)


def everything(harness: TextHarness, split: Split) -> Panel:
    return Panel({task: tuple(range(n)) for task, n in harness.sizes(split).items()})


def texts_of(harness: TextHarness, task: str, split: Split) -> list[str]:
    both = harness._sets[task][split]
    return [both.source[p] for p in both.positions]


def perturbed(model: LlamaForCausalLM, size: float) -> LlamaForCausalLM:
    other = LlamaForCausalLM(model.config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs + size * torch.randn(theirs.shape, generator=generator))
    return other


def wide_model(vocabulary: int = 400) -> LlamaForCausalLM:
    """Of more tokens than a reference keeps by name."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.6,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        return LlamaForCausalLM(config).eval()


def value(harness: TextHarness, scores: Scores, task: str, name: str) -> float:
    found = scores[f"{task}/{name}"]
    ratio = float(found.total.sum() / found.weight.sum())
    return harness.metric(task, name).aggregate(ratio, 0.0).value


@pytest.mark.parametrize("starts", ["plain", "adds a BOS", "text has a BOS"])
def test_log_likelihoods_are_lm_evals(
    tmp_path: Path, tokenizer: Any, model: Any, starts: str
) -> None:
    if starts == "adds a BOS":
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    texts = some_texts(1)
    if starts == "text has a BOS":
        texts = [f"<s> {t}" for t in texts]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    name = str(tmp_path / "a.txt")
    harness = TextHarness.load(TextConfig((name,), batch_size=4), tokenizer)
    lm = HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=4)
    try:
        for split in SPLITS:
            read = texts_of(harness, name, split)
            requests = [
                Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(read)
            ]
            expected = lm.loglikelihood_rolling(requests, disable_tqdm=True)
            scores = harness.score(model, everything(harness, split), split)
            found = scores[f"{name}/perplexity"]
            np.testing.assert_allclose(found.total, expected, rtol=1e-5)
            assert found.weight.tolist() == [len(lm.tok_encode(t)) for t in read]
            perplexity = np.exp(-sum(expected) / found.weight.sum())
            assert value(harness, scores, name, "perplexity") == pytest.approx(perplexity, rel=1e-5)
            assert value(harness, scores, name, "nll") == pytest.approx(
                np.log(perplexity), rel=1e-5
            )
            bits = -sum(expected) / np.log(2) / sum(len(t.encode()) for t in read)
            assert value(harness, scores, name, "bits_per_byte") == pytest.approx(bits, rel=1e-5)
    finally:
        tokenizer.backend_tokenizer.post_processor = None


def test_perplexity_is_transformers_loss(tmp_path: Path, tokenizer: Any, model: Any) -> None:
    """`labels` shift by one, so that BOS and the text give one prediction a token."""
    (tmp_path / "a.txt").write_text("\n\n".join(t for t in some_texts(2) if len(t.split()) < 64))
    name = str(tmp_path / "a.txt")
    harness = TextHarness.load(TextConfig((name,)), tokenizer)
    found = harness.score(model, everything(harness, "search"), "search")[f"{name}/nll"]
    for i, text in enumerate(texts_of(harness, name, "search")):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text)]])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert found.total[i] / found.weight[i] == pytest.approx(loss, rel=1e-5)


def exact_kl(harness: TextHarness, name: str, base: Any, model: Any) -> list[float]:
    """Document by document, over the whole vocabulary, in float64."""
    sums = []
    for document in harness.documents(name, "search"):
        total = 0.0
        for window in harness._windows[document]:
            m = len(window.targets)
            with torch.no_grad():
                p, q = (
                    x(input_ids=window.tokens[None]).logits[0, -m:].double().log_softmax(-1)
                    for x in (base, model)
                )
            total += float((p.exp() * (p - q)).sum())
        sums.append(total)
    return sums


@pytest.mark.parametrize(("make", "exact"), [(lambda: toy_model(0), True), (wide_model, False)])
def test_kl_is_zero_for_the_base_grows_and_is_exact_or_a_lower_bound(
    file: str, tokenizer: Any, make: Callable[[], Any], exact: bool
) -> None:
    base = make()
    harness = TextHarness.load(TextConfig((file,), batch_size=8), tokenizer)
    panel = everything(harness, "search")
    harness.reference(base, panel, "search")
    tokens = harness.score(base, panel, "search")[f"{file}/nll"].weight.sum()
    assert harness.reference_bytes == tokens * (8 * min(128, base.config.vocab_size) + 4)
    half = Panel({file: panel.documents[file][::2]})  # of which other batches are made
    assert value(harness, harness.score(base, half, "search"), file, "kl_to_base") < 1e-9
    last = 0.0
    for size in (0.01, 0.03, 0.1, 0.3):
        model = perturbed(base, size)
        scores = harness.score(model, panel, "search")
        now, found = value(harness, scores, file, "kl_to_base"), scores[f"{file}/kl_to_base"]
        expected = np.array(exact_kl(harness, file, base, model))
        assert now > last
        if exact:
            np.testing.assert_allclose(found.total, expected, rtol=1e-4)
        else:
            assert (found.total <= expected * (1 + 1e-4)).all()
            assert (found.total > 0.5 * expected).all()
        last = now


def test_kl_stays_finite_where_the_base_is_certain(tokenizer: Any, file: str) -> None:
    base, model = toy_model(0), toy_model(1)
    with torch.no_grad():
        base.lm_head.weight *= 300  # probabilities down to exp(-1000)
    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    panel = everything(harness, "search")
    harness.reference(base, panel, "search")
    found = harness.score(model, panel, "search")[f"{file}/kl_to_base"]
    np.testing.assert_allclose(found.total, exact_kl(harness, file, base, model), rtol=1e-4)


def test_kl_is_there_where_its_reference_is(file: str, tokenizer: Any, model: Any) -> None:
    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    few, more = Panel({file: (0, 2)}), Panel({file: (0, 1, 2)})
    assert f"{file}/kl_to_base" not in harness.score(model, few, "search")
    harness.reference(model, few, "search")
    assert f"{file}/kl_to_base" in harness.score(model, few, "search")
    with pytest.raises(FitnessError, match="kept for 2 of the 3 documents"):
        harness.score(model, more, "search")
    kept = harness.reference_bytes
    harness.reference(model, more, "search")
    assert harness.reference_bytes > kept
    assert f"{file}/kl_to_base" in harness.score(model, more, "search")
    assert f"{file}/kl_to_base" not in harness.score(model, more, "report")


def test_neither_batches_nor_panels_change_a_score(
    file: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, model = toy_model(0), toy_model(1)
    found = []
    for size, tokens, chunk in ((64, 8192, 1 << 26), (3, 100, 150), (1, 8192, 1)):
        monkeypatch.setattr(_windows, "BATCH_TOKENS", tokens)
        monkeypatch.setattr(_windows, "CHUNK", chunk)
        harness = TextHarness.load(TextConfig((file,), batch_size=size), tokenizer)
        panel = everything(harness, "search")
        harness.reference(base, panel, "search")
        found.append(harness.score(model, panel, "search"))
        part = harness.score(model, Panel({file: (1, 4)}), "search")
        for key, scores in found[-1].items():
            np.testing.assert_allclose(scores.total, found[0][key].total, rtol=1e-5)
            np.testing.assert_allclose(part[key].total, scores.total[[1, 4]], rtol=1e-5)
            assert part[key].documents == tuple(scores.documents[i] for i in (1, 4))


def test_what_runs_out_of_memory_is_halved_for_good(file: str, tokenizer: Any, model: Any) -> None:
    seen: list[int] = []

    def small(module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        seen.append(kwargs["input_ids"].numel())
        if seen[-1] > 300:
            raise torch.OutOfMemoryError

    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    panel = everything(harness, "search")
    expected = harness.score(model, panel, "search")[f"{file}/nll"].total
    handle = model.register_forward_pre_hook(small, with_kwargs=True)
    try:
        found = harness.score(model, panel, "search")[f"{file}/nll"].total
        refused = sum(n > 300 for n in seen)
        harness.score(model, panel, "search")
        assert 0 < refused == sum(n > 300 for n in seen)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        short = TextHarness.load(TextConfig((file,), context=301, batch_size=1), tokenizer)
        handle.remove()
        handle = model.register_forward_pre_hook(
            lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError)
        )
        with pytest.raises(torch.OutOfMemoryError):
            short.score(model, panel, "search")
    finally:
        handle.remove()


def test_a_shorter_context_is_more_windows(file: str, tokenizer: Any, model: Any) -> None:
    harness = TextHarness.load(TextConfig((file,), context=16), tokenizer)
    panel = everything(harness, "search")
    scores = harness.score(model, panel, "search")
    lm = HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=4, max_length=16)
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), i)
        for i, text in enumerate(texts_of(harness, file, "search"))
    ]
    expected = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(scores[f"{file}/nll"].total, -np.array(expected), rtol=1e-5)


def test_halves_are_disjoint_also_across_files(tmp_path: Path, tokenizer: Any) -> None:
    files = []
    for name, texts in (("a.txt", some_texts(1)), ("b.txt", some_texts(1)[::-1] + some_texts(2))):
        files.append(str(tmp_path / name))
        (tmp_path / name).write_text("\n\n".join(texts))
    files.append(str(tmp_path / "c.jsonl"))
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in some_texts(1)))
    harness = TextHarness.load(TextConfig(tuple(files)), tokenizer)
    sides = [{h for f in files for h in harness.documents(f, split)} for split in SPLITS]
    assert not sides[0] & sides[1]
    for split in SPLITS:
        assert set(harness.documents(files[0], split)) == set(harness.documents(files[2], split))
    assert sum(harness.sizes(split)[files[1]] for split in SPLITS) == 60
    other = TextHarness.load(TextConfig(tuple(files), seed=1), tokenizer)
    assert other.documents(files[0], "search") != harness.documents(files[0], "search")


def test_paragraphs_of_a_txt_file(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n \t\n\n\nthree\r\n\r\n  four\n")
    harness = TextHarness.load(TextConfig((str(tmp_path / "a.txt"),)), tokenizer)
    both = harness._sets[harness.tasks[0]]["search"]
    assert both.source == ["one\ntwo", "three", "  four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "none.jsonl': no such file"),
        ("empty.txt", b" \n\n \n", "empty.txt': holds no text"),
        ("empty.jsonl", b'{"text": " "}\n', "empty.jsonl': holds no text"),
        ("prose.jsonl", b'{"text": "a"}\n\nIt was.\n', "line 3 is not JSON.*ends in .txt"),
        ("key.jsonl", b'{"body": "a"}\n', "line 1 has no field 'text'.*the fields 'body'"),
        ("number.jsonl", b'{"text": 3}\n', "line 1 has no field 'text' with a string"),
        ("list.jsonl", b'["text"]\n', r"line 1 has no field 'text'.*got \[\"text\"\]"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "line 1 holds half of a surrogate pair"),
        ("bytes.txt", b"a\xff\n", "bytes.txt': cannot be read"),
        ("one.txt", b"a single paragraph", "documents, as it holds 1 only"),
    ],
)
def test_a_bad_file_is_refused(
    tmp_path: Path, tokenizer: Any, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FitnessError, match=message):
        TextHarness.load(TextConfig((str(tmp_path / name),)), tokenizer)
    with pytest.raises(FitnessError, match="cannot be read"):
        TextHarness.load(TextConfig((str(tmp_path),)), tokenizer)


def test_what_is_unknown_is_refused(file: str, tokenizer: Any, model: Any) -> None:
    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    with pytest.raises(FitnessError, match="did you mean: perplexity"):
        harness.metric(file, "perplexty")
    with pytest.raises(FitnessError, match="unknown text 'other'"):
        harness.leaves("other")
    with pytest.raises(FitnessError, match="document 99 asked for"):
        harness.score(model, Panel({file: (99,)}), "search")
    assert [m.goal for m in harness.metrics(file)] == ["minimize"] * 4
    assert harness.metric(file).name == "perplexity"


def test_broken_weights_are_the_candidates_fault(file: str, tokenizer: Any) -> None:
    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    broken = toy_model(0)
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    for call in (harness.score, harness.reference):
        with pytest.raises(ScoringError):
            call(broken, everything(harness, "search"), "search")


def test_the_process_stays_as_it_was(file: str, tokenizer: Any, model: Any) -> None:
    harness = TextHarness.load(TextConfig((file,)), tokenizer)
    before = (random.getstate(), torch.get_rng_state(), dict(tokenizer.special_tokens_map))
    panel = everything(harness, "search")
    harness.reference(model, panel, "search")
    harness.score(model, panel, "search")
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert dict(tokenizer.special_tokens_map) == before[2]
    assert not any(p.requires_grad and p.grad is not None for p in model.parameters())
