"""Ask and tell: a search hands out candidates and is told what came of them, in any order."""

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoaim.document_rows import DocumentRows
from evoaim.errors import ConfigError
from evoaim.front import Losses
from evoaim.ledger import Ledger, Trial
from evoaim.limits import Limits
from evoaim.optimizers import Proposer
from evoaim.optimizers._check import check_question
from evoaim.optimizers._schedule import build_schedule, stages
from evoaim.results import losses
from evoaim.standing import Standing
from evoaim.storage_url import MEMORY, sqlite_url
from evoaim.watcher import Unwatched, Watcher
from fitness.types import Estimate, Goal, Objective
from search_spaces.genes import Gene, Genome
from search_spaces.space import SearchSpace

PATIENCE = 50  # batches of known genomes, beyond as many as there are, before a search gives up


@dataclass(frozen=True)
class Candidate:
    """A genome to be evaluated, under the number of its trial."""

    number: int
    genome: Genome
    _begin: float = field(default_factory=time.perf_counter, compare=False, repr=False)


class Search:
    """Candidates are asked for and told; the study records both, and what it has is replayed.

    A batch of the optimizer is closed when all of it was told. What an optimizer learns does not
    depend on the order within a batch, so any number of workers finds the same trials.
    """

    def __init__(
        self,
        proposer: Proposer,
        ledger: Ledger,
        limits: Limits,
        parents: Losses | None = None,
        watcher: Watcher | None = None,
        rows: DocumentRows | None = None,
    ) -> None:
        """Put a search together; `Search.over` does it from genes and names.

        Args:
            proposer: the optimizer.
            ledger: the study; its trials are replayed, not evaluated again.
            limits: when to end.
            parents: (n, n_objectives) losses that hypervolumes are measured from.
            watcher: is told how it goes.
            rows: of single documents, if the optimizer learns from them.
        """
        self._proposer, self.ledger, self._limits = proposer, ledger, limits
        self._watcher = watcher or Unwatched()
        self._rows = rows
        self.standing = Standing(ledger.objectives, parents)
        self.ended = ""  # why no more candidates are handed out
        self._recorded = ledger.trials()
        self._answers: dict[str, Trial] = {}  # canonical genome -> trial
        self._batch: list[str] = []  # keys of the current batch
        self._queue: deque[Genome] = deque()  # of the current batch, not handed out
        self._open: set[int] = set()  # handed out, not told
        self._number = 0  # of the next trial
        self._stale = 0

    @classmethod
    def over(
        cls,
        space: SearchSpace | Sequence[Gene],
        goals: Mapping[str, Goal],
        optimizer: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        candidates: int | None = None,
        seed: int = 0,
        study: str | Path | None = None,
    ) -> "Search":
        """A search of any function over genes.

        Args:
            space: genes, or a space of recipes, whose seeds then go first.
            goals: name of each objective -> "maximize" or "minimize".
            optimizer: as in an experiment: `{"kind": "nsga2", "population": 16}`, or a list.
            candidates: how many, at most.
            seed: of the optimizer.
            study: SQLite file or storage URL; one that has trials is resumed. None: memory.

        Raises:
            ConfigError: an unknown optimizer or option, a wrong goal or seed, no genes, several of
                one name, or the study is another search's.
        """
        genes = space.genes if isinstance(space, SearchSpace) else tuple(space)
        initial = space.seeds() if isinstance(space, SearchSpace) else ()
        check_question(genes, goals, seed)
        objectives = tuple(Objective(name, goal, ()) for name, goal in goals.items())
        plan = stages(optimizer)
        proposer = build_schedule(plan, genes, len(objectives), seed, initial)
        url = MEMORY if study is None else str(study)
        url = url if "://" in url or url == MEMORY else sqlite_url(Path(url))
        told = [[g.__class__.__name__, repr(g)] for g in genes]
        identity = json.dumps(
            [told, dict(goals), [[s.kind, asdict(s.params), s.candidates] for s in plan], seed]
        )
        ledger = Ledger.open(url, "search", objectives, genes, identity)
        rows = DocumentRows(Unwatched().documents, study is not None)
        learns = any(s.documents for s in plan)
        return cls(proposer, ledger, Limits(candidates), rows=rows if learns else None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to hand out or to be told."""
        self._advance()
        return bool(self.ended) and not self._open

    @property
    def trials(self) -> list[Trial]:
        """All finished and failed ones that were told (or recorded) so far, by number."""
        return self.standing.trials

    @property
    def front(self) -> list[Trial]:
        """The non-dominated feasible trials, in the order they were found."""
        return self.standing.front

    @property
    def batch_size(self) -> int:
        """How many candidates the optimizer has proposed together."""
        return len(self._batch)

    def ask(self, n: int | None = None) -> list[Candidate]:
        """Up to `n` candidates of the current batch; None: all that are left of it.

        None are handed out before the batch is told, and when the search has ended (see `ended`).
        """
        out: list[Candidate] = []
        while (n is None or len(out) < n) and self._advance():
            genome = self._queue.popleft()
            number, self._number = self._number, self._number + 1
            if number >= len(self._recorded):
                self.ledger.start(number, genome)
            self._open.add(number)
            out.append(Candidate(number, genome))
        return out

    def tell(
        self,
        candidate: Candidate,
        values: Mapping[str, float],
        documents: NDArray[np.float64] | None = None,
    ) -> None:
        """The objectives of a candidate, in natural units; one that is not finite fails it.

        Args:
            candidate: that was asked for.
            values: by objective.
            documents: (n_documents,) scores on single documents, larger is better, for optimizers
                that learn from them (`m2n2`). They are not recorded, so such a search lies in
                memory.

        Raises:
            ConfigError: an objective has no value, the candidate is not open, documents of another
                number, or for a search with a study.
        """
        missing = [o.name for o in self.ledger.objectives if o.name not in values]
        if missing:
            raise ConfigError(f"objective '{missing[0]}': has no value, got {dict(values)}")
        bad = [n for n, v in values.items() if not math.isfinite(v)]
        if bad:
            return self.fail(candidate, f"objective '{bad[0]}' is not finite")
        seconds = time.perf_counter() - candidate._begin
        estimates = {n: Estimate(float(v), 0.0) for n, v in values.items()}
        if documents is not None and self._rows is not None and candidate.number in self._open:
            self._rows.keep(candidate.number, documents)
        self.record(Trial(candidate.number, candidate.genome, "done", estimates, seconds))

    def fail(self, candidate: Candidate, reason: str) -> None:
        """Say why a candidate could not be evaluated."""
        seconds = time.perf_counter() - candidate._begin
        self.record(Trial(candidate.number, candidate.genome, "failed", {}, seconds, reason))

    def record(self, trial: Trial, note: str = "") -> None:
        """Everything that is known of a candidate, as a trial; `note` is Markdown.

        Raises:
            ConfigError: no candidate of that number is open.
        """
        if trial.number not in self._open:
            raise ConfigError(f"trial {trial.number}: was not asked for, or has been told already")
        if trial.state == "failed":
            self.ledger.fail(trial.number, trial.reason, trial.seconds)
        else:
            if note:
                self.ledger.note(trial.number, note)
            self.ledger.finish(trial)
        self._open.discard(trial.number)
        self._take(trial)
        self._watcher.candidate(self.standing)

    def _take(self, trial: Trial) -> None:
        self._answers[json.dumps(dict(trial.genome))] = trial
        self.standing.count(trial)

    def _advance(self) -> bool:
        """Replay what is recorded, close batches and ask for new ones: is there one to hand out?"""
        while not self.ended:
            while self._queue and self._replayed(self._queue[0]):
                self._queue.popleft()
            if self._queue:
                return not self._spent()
            if self._open:
                return False
            if self._batch:
                self._close()
            if not self.ended and not self._spent():
                self._next()
        return False

    def _replayed(self, genome: Genome) -> bool:
        """Whether the next trial is recorded with its outcome; it is counted then."""
        if self._number >= len(self._recorded) or self._spent():
            return False
        known = self._recorded[self._number]
        if dict(known.genome) != dict(genome):
            raise ConfigError(
                f"trial {self._number} is recorded with {dict(known.genome)}, but the optimizer "
                f"now proposes {dict(genome)}; was the run made with other versions "
                "(manifest.json)? Start a new run directory"
            )
        if known.state == "running":
            return False
        self._number += 1
        self._take(known)
        return True

    def _next(self) -> None:
        genomes = self._proposer.ask()
        if not genomes:
            self.ended = "the optimizer finds no new candidates: the space is (nearly) exhausted"
            return
        self._batch = [json.dumps(dict(g)) for g in genomes]
        fresh = {k: g for k, g in zip(self._batch, genomes, strict=True) if k not in self._answers}
        self._queue = deque(fresh.values())
        self._stale = 0 if fresh else self._stale + 1
        if self._stale >= PATIENCE + len(self._answers):  # a stage asks all it begins with again
            self.ended = f"no new candidate in {self._stale} batches"
        self._watcher.batch_begins(self.standing)

    def _close(self) -> None:
        answers = [self._answers[key] for key in self._batch]
        self._batch = []
        told = losses(self.ledger.objectives, [t.estimates for t in answers])
        violations = np.array([_violation(t) for t in answers])
        documents = None if self._rows is None else self._rows.table(answers)
        self._proposer.tell(told, violations, documents)
        self.standing.end_batch()
        self._watcher.batch_ends(self.standing)
        plateau = self._limits.plateau
        if plateau and self.standing.stalled(plateau.candidates, plateau.gain):
            self.ended = (
                f"the front has stood still: {plateau.candidates} candidates added no more than "
                f"{plateau.gain:.2%} of its hypervolume"
            )

    def _spent(self) -> bool:
        limits = self._limits
        if limits.candidates is not None and self._number >= limits.candidates:
            self.ended = "the budget of candidates is spent"
        elif limits.seconds is not None and self.standing.seconds >= limits.seconds:
            self.ended = "the budget of time is spent"
        return bool(self.ended)


def _violation(trial: Trial) -> float:
    """What the optimizer is told: below 1 for broken constraints, more for the raced out."""
    return trial.raced + trial.violation / (1 + trial.violation)
