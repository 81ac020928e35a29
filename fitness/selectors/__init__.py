"""Selectors: which documents of a task every candidate is scored on.

A plugin is one module of this package; its file name is the selector's name. It declares `PAPER`,
`REFERENCES` (how many fully scored models it needs at least), `EVEN` (whether documents are equally
probable, or nearly so, and their plain mean is an estimate), the frozen dataclass `Params` (its
own options) and one pure function, `select`. The panel is chosen once, before the first candidate:
all candidates of a search are scored on the same documents (common random numbers).
"""

from typing import Protocol

import numpy as np

from fitness.samples import Options, Population, Selection


class Selector(Protocol):
    """What a module of this package offers."""

    PAPER: str  # where the selector is described
    EVEN: bool  # every document is (nearly) as probable as any other
    REFERENCES: int  # models with scores on all documents that it needs
    Params: type[Options]  # the dataclass of its parameters

    def select(
        self, population: Population, n: int, params: Options, rng: np.random.Generator
    ) -> Selection:
        """`n` documents, 1 <= n <= N, in a random order.

        Raises:
            FitnessError: the selector cannot choose so few, or lacks what it chooses by.
        """
        ...
