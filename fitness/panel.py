"""Which documents are run: a random panel, the same for every candidate of a search."""

import hashlib
from collections.abc import Mapping

import numpy as np

from fitness.errors import FitnessError
from fitness.types import Panel


def random_panel(sizes: Mapping[str, int], documents: int | None, seed: int) -> Panel:
    """`documents` positions per task, drawn without replacement; None takes them all.

    The draw of a task depends on the seed and its name only, not on the other tasks.

    Args:
        sizes: task -> number of documents in its set.
        documents: documents per task.
        seed: of the draw.

    Raises:
        FitnessError: a task has fewer documents than asked for, or none are asked for.
    """
    if documents is None:
        return Panel({task: tuple(range(size)) for task, size in sizes.items()})
    if documents < 1:
        raise FitnessError(f"documents per task: at least 1 expected, got {documents}")
    chosen: dict[str, tuple[int, ...]] = {}
    for task, size in sizes.items():
        if documents > size:
            raise FitnessError(
                f"task '{task}': {documents} documents asked for, {size} available; "
                f"ask for at most {size}, or for all of them (documents: null)"
            )
        drawn = generator(seed, task).choice(size, documents, replace=False)
        chosen[task] = tuple(sorted(int(i) for i in drawn))
    return Panel(chosen)


def generator(seed: int, task: str, stream: tuple[int, ...] = ()) -> np.random.Generator:
    """The draws of one task: they depend on seed and name, whatever other tasks there are.

    Args:
        seed: of the experiment.
        task: its name.
        stream: tells several draws of one task apart.
    """
    name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name, *stream])
