"""Schedules: one optimizer after the other, each begun with the front so far."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from evoaim.errors import ConfigError
from evoaim.front import nondominated
from evoaim.optimizers import Documents, Losses, Proposer, Violations, ranked_violations
from evoaim.optimizers._check import check_objectives
from evoaim.plugins import plugin
from evoaim.registry import OPTIMIZERS
from search_spaces.genes import Gene, Genome

CANDIDATES = "candidates"


@dataclass(frozen=True)
class Stage:
    """One optimizer of a schedule, and how many candidates of its own it is asked for.

    None: to the end of the budget.
    """

    kind: str
    module: ModuleType
    params: Any
    candidates: int | None = None

    @property
    def documents(self) -> bool:
        """Whether it learns from single documents."""
        return bool(getattr(self.module, "DOCUMENTS", False))


def stages(optimizer: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Stage, ...]:
    """The stages of an experiment's `optimizer`: one block, or a list with `candidates` each.

    Raises:
        ConfigError: unknown kind or option, or a wrong number of candidates.
    """
    if isinstance(optimizer, Mapping):
        return (Stage(str(optimizer.get("kind")), *plugin(optimizer, OPTIMIZERS, "optimizer")),)
    if not optimizer or isinstance(optimizer, str):
        got = repr(optimizer) if optimizer else "none"
        raise ConfigError(f"optimizer: a block, or a list of at least one, expected, got {got}")
    found = []
    for i, block in enumerate(optimizer):
        where = f"optimizer.{i}"
        if not isinstance(block, Mapping):
            raise ConfigError(f"{where}: a block such as kind: nsga2 expected, got {block!r}")
        options = dict(block)
        n = options.pop(CANDIDATES, None)
        last = i == len(optimizer) - 1
        if last and n is not None:
            raise ConfigError(
                f"{where}.{CANDIDATES}: the last stage goes on to the end of the budget; "
                "leave it out, and set budget.candidates"
            )
        if not last and n is None:
            raise ConfigError(
                f"{where}.{CANDIDATES}: is missing; give the number of candidates, seeds not "
                "counted, after which the next stage begins"
            )
        if not last and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
            raise ConfigError(
                f"{where}.{CANDIDATES}: a whole number of 1 or more expected, after which the next "
                f"stage begins, got {n!r}"
            )
        found.append(Stage(str(options.get("kind")), *plugin(options, OPTIMIZERS, where), n))
    return tuple(found)


def build_schedule(
    plan: Sequence[Stage],
    genes: Sequence[Gene],
    n_objectives: int,
    seed: int,
    initial: Sequence[Genome],
) -> Proposer:
    """The proposer of a plan; a single stage is its optimizer and nothing else.

    Raises:
        ConfigError: a stage cannot handle so many objectives.
    """
    for stage in plan:
        check_objectives(stage.kind, n_objectives)

    def begin(i: int, first: Sequence[Genome]) -> Proposer:
        stage = plan[i]
        own = (seed + i) % 2**32
        proposer: Proposer = stage.module.build(genes, n_objectives, stage.params, own, first)
        return proposer

    if len(plan) == 1:
        return begin(0, initial)
    return _Schedule(plan, begin, initial)


class _Schedule:
    """Asks the current stage; a stage ends with the batch that completes its candidates."""

    def __init__(self, plan: Sequence[Stage], begin: Any, initial: Sequence[Genome]) -> None:
        self._plan, self._begin = plan, begin
        self._stage = 0
        self._current: Proposer = begin(0, initial)
        self._asked: set[tuple[Any, ...]] = set()
        self._given = {tuple(g.items()) for g in initial}  # seeds count for no stage
        self._fresh = 0  # genomes that the current stage was the first to ask
        self._batch: list[Genome] = []
        self._told: list[Genome] = []
        self._losses: list[Losses] = []

    def ask(self) -> list[Genome]:
        """See `Proposer.ask`; genomes of earlier stages are asked again where a stage begins."""
        while self._over() or not (batch := list(self._current.ask())):
            if self._stage + 1 == len(self._plan):
                return []
            self._stage += 1
            self._fresh = 0
            self._current = self._begin(self._stage, list(self._front()))
        fresh = {tuple(g.items()) for g in batch} - self._asked
        self._asked |= fresh
        self._fresh += len(fresh - self._given)
        self._batch = batch
        return batch

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,
    ) -> None:
        """See `Proposer.tell`."""
        stage = self._plan[self._stage]
        self._current.tell(losses, violations, documents if stage.documents else None)
        able = ranked_violations(losses, violations) <= 0
        self._told += [g for g, ok in zip(self._batch, able, strict=True) if ok]
        self._losses += list(losses[able])

    def _over(self) -> bool:
        wanted = self._plan[self._stage].candidates
        return wanted is not None and self._fresh >= wanted

    def _front(self) -> Iterator[Genome]:
        if self._losses:
            for i in np.flatnonzero(nondominated(np.array(self._losses))):
                yield self._told[i]
