"""A tiny random language model and offline lm-eval tasks of every output type, as fixtures."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from toys import TOY_TASKS, WORDS, load, metrics, toy_model, toy_rows, write_task
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from fitness.harness import Harness


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {w: i + 3 for i, w in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return toy_model(0)


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of all four output types."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(
        folder,
        "toy_choice",
        {"train": toy_rows(1, 30), "validation": toy_rows(2, 25), "test": toy_rows(3, 30)},
        output_type="multiple_choice",
        num_fewshot=2,
        fewshot_split="train",
        doc_to_text="{{question}}",
        doc_to_choice="{{choices}}",
        doc_to_target="gold",
        metric_list=metrics("acc", "acc_norm", "mcc") + metrics("brier_score", higher=False),
    )
    write_task(
        folder,
        "toy_greedy",
        {"validation": toy_rows(9, 30), "test": toy_rows(4, 60)},
        metric_list=metrics("acc") + metrics("perplexity", higher=False),
    )
    write_task(
        folder,
        "toy_generate",
        {"validation": toy_rows(5, 12), "test": toy_rows(6, 12)},
        output_type="generate_until",
        num_fewshot=1,
        fewshot_split="validation",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["w0"], "max_gen_toks": 6, "do_sample": False},
        filter_list=[
            {
                "name": name,
                "filter": [
                    {"function": "regex", "regex_pattern": pattern},
                    {"function": "take_first"},
                ],
            }
            for name, pattern in (("first", r"^\s*(\w+)"), ("second", r"\w+ (\w+)"))
        ],
        metric_list=metrics("exact_match"),
    )
    write_task(
        folder,
        "toy_rolling",
        {"validation": toy_rows(7, 10), "test": toy_rows(8, 10)},
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=metrics("word_perplexity", "byte_perplexity", "bits_per_byte", higher=False),
    )
    return folder


@pytest.fixture(scope="session")
def harness(task_folder: Path, tokenizer: PreTrainedTokenizerFast) -> Harness:
    return load(task_folder, tokenizer, *TOY_TASKS)
