"""Which documents of a task are searched on and which are reported, told apart by content."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.utils import handle_non_serializable, hash_string

from fitness._guard import reseed
from fitness._tasks import TASK_ERRORS, cause
from fitness.errors import FitnessError
from fitness.types import Split


@dataclass(frozen=True, eq=False)
class DocumentSet:
    """Some documents of one split of a task.

    Args:
        split: the split's name in the data set.
        source: all documents of the split, in lm-eval's order.
        positions: which of `source` belong to the set, ascending.
        hashes: lm-eval's `doc_hash` of each of them.
    """

    split: str
    source: Sequence[Any]
    positions: tuple[int, ...]
    hashes: tuple[str, ...]


def document_sets(task: ConfigurableTask, seed: int) -> dict[Split, DocumentSet]:
    """The report set is what lm-eval scores (test, else validation), the search set another split.

    Search takes validation, else training. A task with a single split is divided in halves by a
    hash of seed and content, so that equal documents always fall on the same side.

    Raises:
        FitnessError: a split cannot be read, or one of the two sets would be empty.
    """
    name = task.task_name
    splits: dict[str, str] = {}  # kind -> name, in lm-eval's order of preference
    for kind in ("test", "validation", "training"):
        if getattr(task, f"has_{kind}_docs")():
            splits[kind] = str(getattr(task.config, f"{kind}_split") or kind)
    report = next(iter(splits))  # lm-eval refuses tasks without test and validation split
    search = next((k for k in splits if splits[k] != splits[report]), None)
    whole = _read(task, report, splits[report])
    if search is not None:
        sets: dict[Split, DocumentSet] = {
            "search": _read(task, search, splits[search]),
            "report": whole,
        }
    else:
        sets = {side: _half(whole, side, seed) for side in ("search", "report")}
    for side, documents in sets.items():
        if not documents.positions:
            raise FitnessError(
                f"task '{name}': no {side} documents in split '{documents.split}' "
                f"({len(documents.source)} documents)"
            )
    return sets


def _read(task: ConfigurableTask, kind: str, split: str) -> DocumentSet:
    reseed(DEFAULT_RANDOM_SEED, DEFAULT_OTHER_SEED)
    try:
        source = getattr(task, f"{kind}_docs")()  # runs the task's process_docs: once
        hashes = tuple(map(_hash, source))
    except TASK_ERRORS as error:
        raise FitnessError(
            f"task '{task.task_name}': split '{split}' cannot be read: {cause(error)}"
        ) from error
    return DocumentSet(split, source, tuple(range(len(hashes))), hashes)


def _hash(document: Any) -> str:
    # as lm_eval.evaluator computes doc_hash, so that sample logs can be matched
    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


def _half(whole: DocumentSet, side: Split, seed: int) -> DocumentSet:
    parity = 0 if side == "search" else 1
    chosen = [
        p
        for p, h in zip(whole.positions, whole.hashes, strict=True)
        if hashlib.sha256(f"{seed}:{h}".encode()).digest()[0] % 2 == parity
    ]
    return DocumentSet(
        whole.split, whole.source, tuple(chosen), tuple(whole.hashes[p] for p in chosen)
    )


def refuse_overlap(sets: Mapping[str, Mapping[Split, DocumentSet]]) -> None:
    """Check that nothing that is reported, of any task, was searched on.

    Raises:
        FitnessError: with the number of common documents and what to do.
    """
    searched = {h: task for task, both in sets.items() for h in both["search"].hashes}
    for task, both in sets.items():
        common = [h for h in dict.fromkeys(both["report"].hashes) if h in searched]
        if common:
            other = searched[common[0]]
            raise FitnessError(
                f"search and report documents overlap: {len(common)} of the "
                f"{len(both['report'].hashes)} report documents of task '{task}' (split "
                f"'{both['report'].split}') are also search documents of task '{other}' (split "
                f"'{sets[other]['search'].split}'); remove them from one of the two, or give the "
                "task a single split, which is divided by content"
            )
