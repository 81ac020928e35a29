"""Writes the demo zoo's texts: lm-eval tasks with their JSONL documents, and calibration text."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from evoaim.zoo.language import DOMAINS, END, GROUPS, LANGUAGES, Question, Split, questions

Document = Mapping[str, Any]

CALIBRATION_DOCUMENTS = 512
SPLITS: tuple[tuple[Split, str], ...] = (("search", "validation"), ("report", "test"))
"""Our name of a split, and the one that its lm-eval task has for it."""

_CHOICES = 4
_MIXED_SHARE = 10  # zoo_choice and zoo_generate ask every tenth question of the three domains


def domain_documents(domain: str, split: Split) -> list[Document]:
    """List the documents of `zoo_<domain>`: `prompt`, `answer`, `task`, in a shuffled order."""
    documents = [
        {**asdict(question), "task": task}
        for language, task in DOMAINS[domain]
        for question in questions(language, task, split)
    ]
    return sorted(documents, key=_shuffled)


def mixed_documents(split: Split) -> list[Document]:
    """List a tenth of every domain's documents, with four `choices` and the index of the `gold`."""
    documents: list[Document] = []
    for domain in DOMAINS:
        of_domain = domain_documents(domain, split)
        documents += of_domain[: len(of_domain) // _MIXED_SHARE]
    return [_with_choices(document) for document in sorted(documents, key=_shuffled)]


def calibration_texts() -> list[str]:
    """List training questions with their answers, evenly from every language and task."""
    generator = random.Random(0)
    pools = [questions(language, task, "train") for language, task in GROUPS]
    texts = [_text(generator.choice(pools[i % len(pools)])) for i in range(CALIBRATION_DOCUMENTS)]
    generator.shuffle(texts)
    return texts


def write_documents(folder: Path, home: Path) -> None:
    """Write `tasks/*.yaml`, `tasks/data/*.jsonl` and `calibration.jsonl` below `folder`.

    The YAML files name their data below `home`, where the folder will stand: the datasets library
    starts from the working directory, and lm-eval alone shall find them, too. (Our own harness
    also finds the data of a zoo that was moved.)
    """
    data = folder / "tasks" / "data"
    data.mkdir(parents=True)
    for domain in DOMAINS:
        for split, _ in SPLITS:
            _write_jsonl(data / f"{domain}_{split}.jsonl", domain_documents(domain, split))
        _write_task(folder, home, (f"zoo_{domain}", domain), _EXACT_MATCH)
    for split, _ in SPLITS:
        _write_jsonl(data / f"mixed_{split}.jsonl", mixed_documents(split))
    _write_task(folder, home, ("zoo_choice", "mixed"), _MULTIPLE_CHOICE)
    _write_task(folder, home, ("zoo_generate", "mixed"), _GENERATION)
    texts = ({"text": text} for text in calibration_texts())
    _write_jsonl(folder / "calibration.jsonl", texts)


def _mean_of(metric: str) -> list[Document]:
    return [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]


_EXACT_MATCH: Document = {
    "output_type": "loglikelihood",
    # lm-eval puts no delimiter before the target of this type: without the leading space the
    # answer's first word would fuse with the prompt's last one.
    "doc_to_target": " {{answer}}",
    "metric_list": _mean_of("acc"),
}
_MULTIPLE_CHOICE: Document = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": _mean_of("acc"),
}
_GENERATION: Document = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": [END], "do_sample": False, "max_gen_toks": 6},
    "metric_list": _mean_of("exact_match"),
}


def _write_task(folder: Path, home: Path, names: tuple[str, str], kind: Document) -> None:
    name, data = names  # of the task, of its data files
    place = home / "tasks" / "data"
    files = {theirs: str(place / f"{data}_{ours}.jsonl") for ours, theirs in SPLITS}
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "validation_split": "validation",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        **kind,
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")


def _write_jsonl(path: Path, documents: Iterable[Document]) -> None:
    lines = (json.dumps(document, ensure_ascii=False) for document in documents)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _shuffled(document: Document) -> bytes:
    return hashlib.sha256(document["prompt"].encode()).digest()


def _text(question: Question) -> str:
    return f"{question.prompt} {question.answer}"


def _with_choices(document: Document) -> Document:
    """Add wrong answers that differ from the right one in a single word."""
    generator = random.Random(document["prompt"])
    choices = [document["answer"]]
    while len(choices) < _CHOICES:
        words = document["answer"].split()
        place = generator.randrange(len(words))
        words[place] = generator.choice(_SIBLINGS[words[place]])
        if (wrong := " ".join(words)) not in choices:
            choices.append(wrong)
    generator.shuffle(choices)
    return {**document, "choices": choices, "gold": choices.index(document["answer"])}


_SIBLINGS = {
    word: words
    for language in LANGUAGES.values()
    for words in (language.tens, language.units)
    for word in words
}
