"""MGSM's test questions in two halves that are the same questions in every language."""

import datasets
from datasets import Dataset, DatasetDict


def load(language: str, **_metadata: object) -> DatasetDict:
    """Splits train (the examples), validation (to search on) and test (to report on).

    lm-eval calls it with the task's `dataset_kwargs`, and its metadata, which vary by version.
    """
    found = datasets.load_dataset("juletxara/mgsm", language)
    return DatasetDict({"train": found["train"], **divided(found["test"])})


def divided(questions: Dataset) -> dict[str, Dataset]:
    """Questions at even places to search on, at odd ones to report on.

    By place, because the languages have the same questions in the same order: halves drawn by
    content, each language on its own, would search on translations of what is reported.
    """
    n = len(questions)
    return {
        "validation": questions.select(range(0, n, 2)),
        "test": questions.select(range(1, n, 2)),
    }
