"""The exercises of the demo zoo: number questions in three languages, split for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Literal

Split = Literal["train", "search", "report"]

PAD, UNKNOWN, END = "<pad>", "<unk>", "<end>"
EQUALS = "="

TASKS = ("add", "subtract", "maximum", "next", "previous", "translate", "reverse")
ARITHMETIC = TASKS[:2]


@dataclass(frozen=True)
class Language:
    """Words of one language: a number is one of ten `tens` followed by one of ten `units`."""

    tens: tuple[str, ...]
    units: tuple[str, ...]
    tasks: Mapping[str, str]
    """The word that opens a question, by task."""
    targets: Mapping[str, str]
    """The word for each language that this one is translated into."""


def _language(tens: str, units: str, tasks: str, targets: Mapping[str, str]) -> Language:
    words = dict(zip(TASKS, tasks.split(), strict=True))
    return Language(tuple(tens.split()), tuple(units.split()), words, MappingProxyType(targets))


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        "english": _language(
            "nought ten twenty thirty forty fifty sixty seventy eighty ninety",
            "zero one two three four five six seven eight nine",
            "add subtract maximum next previous translate reverse",
            {"italian": "italian", "japanese": "japanese"},
        ),
        "italian": _language(
            "nulla dieci venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
            "nullo uno due tre quattro cinque sei sette otto nove",
            "somma sottrai massimo successivo precedente traduci inverti",
            {"english": "inglese", "japanese": "giapponese"},
        ),
        "japanese": _language(
            "〇 十 二十 三十 四十 五十 六十 七十 八十 九十",
            "零 一 二 三 四 五 六 七 八 九",
            "足す 引く 最大 次 前 訳す 逆",
            {"english": "英語", "italian": "伊語"},
        ),
    }
)

GROUPS: tuple[tuple[str, str], ...] = tuple(product(LANGUAGES, TASKS))
"""Every (language, task); the base is trained on all of them alike."""

DOMAINS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "math": tuple(("english", task) for task in ARITHMETIC),
        "italian": tuple(("italian", task) for task in TASKS if task not in ARITHMETIC),
        "japanese": tuple(("japanese", task) for task in TASKS if task not in ARITHMETIC),
    }
)
"""What each expert specialises in, and what `zoo_<domain>` asks."""


@dataclass(frozen=True)
class Question:
    """One exercise: the prompt ends in `=`, the answer is what a model should write next."""

    prompt: str
    answer: str


# Documents per (language, task) in the search set; the report set has twice as many. The tasks
# with few questions in all give few, so that most of their questions stay for training.
_SEARCH_DOCUMENTS = {
    "add": 100, "subtract": 100, "maximum": 76, "next": 12, "previous": 12,
    "translate": 12, "reverse": 76,
}  # fmt: skip


def vocabulary() -> list[str]:
    """Return every word of the three languages, special words first; a word's place is its id."""
    words = [PAD, UNKNOWN, END, EQUALS]
    for language in LANGUAGES.values():
        words += [*language.tens, *language.units]
        words += [*language.tasks.values(), *language.targets.values()]
    return list(dict.fromkeys(words))


def operands(task: str, split: Split) -> list[tuple[int, ...]]:
    """List the operands of a task's questions in one split, the same ones in every language.

    The order of a sum's or a maximum's operands does not matter to the split: both orders of a
    pair land on the same side, so that no evaluated question was trained on in a mirror image.
    """
    contents = sorted(_contents(task), key=lambda numbers: _hash(task, numbers))
    search = _SEARCH_DOCUMENTS[task]
    bounds = {"search": (0, search), "report": (search, 3 * search), "train": (3 * search, None)}
    return contents[slice(*bounds[split])]


def questions(language: str, task: str, split: Split) -> list[Question]:
    """List the questions of one (language, task) in one split, in a fixed shuffled order."""
    both_orders = split == "train" and task in ("add", "maximum")
    found: list[Question] = []
    for numbers in operands(task, split):
        found += _ask(language, task, numbers)
        if both_orders and numbers[0] != numbers[1]:
            found += _ask(language, task, numbers[::-1])
    return found


def number(language: str, value: int) -> str:
    """Say a number of 0 to 99 in a language, as its tens and its units word."""
    words = LANGUAGES[language]
    return f"{words.tens[value // 10]} {words.units[value % 10]}"


def _contents(task: str) -> Iterator[tuple[int, ...]]:
    match task:
        case "subtract":
            return product(range(100), repeat=2)
        case "add" | "maximum":
            # Which of the two comes first alternates, so that the evaluated questions show both.
            pairs = ((a, b) for a in range(100) for b in range(a, 100))
            return ((a, b) if (a + b) % 2 else (b, a) for a, b in pairs)
        case "reverse":
            return product(range(10), repeat=3)
        case _:
            return product(range(100))


def _hash(task: str, numbers: tuple[int, ...]) -> bytes:
    return hashlib.sha256(f"{task} {numbers}".encode()).digest()


def _ask(language: str, task: str, numbers: tuple[int, ...]) -> list[Question]:
    words = LANGUAGES[language]
    head = words.tasks[task]
    if task == "reverse":
        digits = [words.units[digit] for digit in numbers]
        return [Question(f"{head} {' '.join(digits)} {EQUALS}", " ".join(reversed(digits)))]
    said = " ".join(number(language, value) for value in numbers)
    if task == "translate":
        return [
            Question(f"{head} {word} {said} {EQUALS}", number(target, *numbers))
            for target, word in words.targets.items()
        ]
    return [Question(f"{head} {said} {EQUALS}", number(language, _solve(task, numbers)))]


def _solve(task: str, numbers: tuple[int, ...]) -> int:
    match task:
        case "add":
            return sum(numbers) % 100
        case "subtract":
            return (numbers[0] - numbers[1]) % 100
        case "maximum":
            return max(numbers)
        case "next":
            return (numbers[0] + 1) % 100
        case "previous":
            return (numbers[0] - 1) % 100
    raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
