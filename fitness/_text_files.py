"""Documents of a text file, and which of them are searched on and which reported."""

import json
import re
from pathlib import Path
from typing import Any

from fitness._splits import DocumentSet, _half, _hash
from fitness.errors import FitnessError
from fitness.types import Split


def read_texts(path: str) -> list[str]:
    """The documents: paragraphs of a .txt file, else the field `text` of JSON lines; blank ones go.

    Raises:
        FitnessError: the file is missing, cannot be read, is not of that form, or holds no text.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            if Path(path).suffix == ".txt":
                texts = [t.strip("\n") for t in re.split(r"\n\s*\n", file.read())]
            else:
                texts = [_text(path, n, line) for n, line in enumerate(file, 1) if line.strip()]
    except FileNotFoundError:
        raise FitnessError(f"text '{path}': no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FitnessError(f"text '{path}': cannot be read ({error})") from None
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise FitnessError(f"text '{path}': holds no text")
    return texts


def divided(path: str, seed: int) -> dict[Split, DocumentSet]:
    """The documents in halves by a hash of seed and content, as tasks with a single split.

    Raises:
        FitnessError: see `read_texts`; or a half is empty.
    """
    texts = read_texts(path)
    # hashed as rows of a task's data set are, so that the same text falls on the same side there
    hashes = tuple(_hash({"text": text}) for text in texts)
    whole = DocumentSet("text", texts, tuple(range(len(texts))), hashes)
    sides: tuple[Split, Split] = ("search", "report")
    halves = {side: _half(whole, side, seed) for side in sides}
    for side, documents in halves.items():
        if not documents.positions:
            raise FitnessError(
                f"text '{path}': no {side} documents, as it holds {len(texts)} only, which are "
                "divided by content; dozens are needed (paragraphs in a .txt file, else lines)"
            )
    return halves


def _text(path: str, number: int, line: str) -> str:
    try:
        row: Any = json.loads(line)
    except ValueError:
        raise FitnessError(
            f"text '{path}': line {number} is not JSON; JSON lines with a field 'text' expected, "
            "or a name that ends in .txt"
        ) from None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = f"the fields {', '.join(map(repr, row))}" if isinstance(row, dict) else line.strip()
        raise FitnessError(
            f"text '{path}': line {number} has no field 'text' with a string, got {found[:200]}"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FitnessError(
            f"text '{path}': line {number} holds half of a surrogate pair, which no UTF-8 can write"
        ) from None
    return text
