"""Promotion: the best candidates are scored on more documents, during a search and at its end."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from evoaim.constraints import total_violation
from evoaim.errors import CandidateError
from evoaim.evaluator import Evaluator
from evoaim.front import layered, nondominated, spread
from evoaim.ledger import Trial
from evoaim.parents import Parents
from evoaim.results import Estimates, front_of, losses
from evoaim.run_dir import RunDir
from evoaim.scored import Wanted, scored
from evoaim.snapshot import Progress
from evoaim.work import Workers
from fitness.promotion import STAGES, Extension
from fitness.scheme import Scheme
from fitness.types import Objective, Panel, Scores


class Promoter:
    """Promotes during a search, so that estimators learn from candidates, too."""

    def __init__(
        self, run: RunDir, evaluator: Evaluator, workers: Workers, parents: Parents
    ) -> None:
        self._run, self._evaluator, self._parents = run, evaluator, parents
        self._workers = workers
        self._settings = evaluator.experiment.fitness.promoted()
        self._learns = evaluator.plan().needs_references
        self._promoted: dict[int, Trial] = {}
        self._read: dict[int, Scores] = {}
        self._fitted = 0  # promoted trials that the scheme knows
        self._known = dict(parents.known)  # what it was fitted to
        self._scheme = parents.scheme
        self._cost = len(evaluator.documents["search"]) - len(parents.scheme.panel)

    def during(self, front: Sequence[Trial], documents: int) -> None:
        """After a batch: score front members in full while that stays within its share.

        Args:
            front: the non-dominated trials.
            documents: that were run for candidates so far.
        """
        if self._settings is None or not self._learns or self._cost <= 0:
            return
        while (len(self._promoted) + 1) * self._cost <= self._settings.share * documents:
            left = [t for t in front if t.number not in self._promoted]
            if not left:
                return
            objectives = [o for o in self._parents.scheme.objectives if o.optimized]
            points = losses(objectives, [t.estimates for t in left])
            trial = left[spread(points, len(objectives) + 1)[-1]]
            self._promoted[trial.number] = trial

    def scheme(self) -> Scheme:
        """The search's scheme, with estimators that know the promoted candidates."""
        if self._fitted < len(self._promoted):
            everything = self._evaluator.documents["search"]
            new = list(self._promoted.values())[self._fitted :]
            wanted = _wanted(self._evaluator, everything, new).values()
            for who, answer in scored(self._run, self._evaluator, self._workers, wanted).items():
                with suppress(CandidateError):  # of a document beyond the panel: nothing is learnt
                    self._known[who] = answer.given()
            self._scheme = self._parents.scheme.refitted(self._known, self._parents.n)
            self._fitted = len(self._promoted)
        return self._scheme

    def scores(self, trial: Trial) -> Scores:
        """What a finished trial scored on (at least) its panel; run again if the files are gone."""
        if trial.number not in self._read:
            wanted = _wanted(self._evaluator, self._parents.scheme.panel, [trial])
            found = scored(self._run, self._evaluator, self._workers, wanted.values())
            self._read[trial.number] = found[wanted[trial.number].who].given()
        return self._read[trial.number]

    def keep(self, trials: Iterable[Trial]) -> None:
        """Forget the scores of all others."""
        wanted = {t.number for t in trials}
        self._read = {n: s for n, s in self._read.items() if n in wanted}


@dataclass(frozen=True)
class Finalist:
    """A candidate that was scored on more documents at the end of a search."""

    trial: Trial
    promoted: Estimates | None  # None: promotion is off
    kept: bool  # in the front


def finalists(
    run: RunDir,
    evaluator: Evaluator,
    workers: Workers,
    parents: Parents,
    trials: Sequence[Trial],
    progress: Progress | None = None,
) -> list[Finalist]:
    """The front by as many documents as it takes to tell who belongs to it.

    Args:
        run: where scores are kept.
        evaluator: of the experiment.
        workers: run what is missing.
        parents: what was known before the first candidate.
        trials: all of the search.
        progress: is told how many of each round are scored.
    """
    objectives = [o for o in evaluator.objectives if o.optimized]
    settings = evaluator.experiment.fitness.promoted()
    if settings is None:
        return [Finalist(t, None, True) for t in front_of(objectives, trials)]
    able = [t for t in trials if t.eligible]
    points = losses(objectives, [t.estimates for t in able])
    chosen = [able[i] for i in sorted(layered(points, settings.finalists))] if able else []
    extension = Extension.of(parents.scheme)
    last: dict[int, Estimates] = {}
    open_ = {t.number: t for t in chosen}
    for stage in STAGES:
        wanted = _wanted(evaluator, extension.panel(stage), open_.values())
        found = scored(run, evaluator, workers, wanted.values(), progress)
        # without one that can no longer be evaluated
        scores = {n: a.scores for n, w in wanted.items() if not (a := found[w.who]).reason}
        open_ = {n: t for n, t in open_.items() if n in scores}
        last |= {n: extension.estimate(s, stage) for n, s in scores.items()}
        standing = extension.standings(list(scores.values()), stage)
        open_ = {n: open_[n] for n, s in zip(scores, standing, strict=True) if s != "out"}
        if "open" not in standing:
            break
    kept = _front(evaluator, parents, objectives, {n: last[n] for n in open_})
    return [Finalist(t, last[t.number], t.number in kept) for t in chosen if t.number in last]


def _wanted(evaluator: Evaluator, panel: Panel, trials: Iterable[Trial]) -> dict[int, Wanted]:
    """The trials on these documents, by number."""
    return {
        t.number: Wanted(f"trial_{t.number}", "search", panel, evaluator.space.decode(t.genome))
        for t in trials
    }


def _front(
    evaluator: Evaluator,
    parents: Parents,
    objectives: Sequence[Objective],
    promoted: Mapping[int, Estimates],
) -> set[int]:
    """Who is non-dominated among those that keep the constraints, also on more documents."""
    rules = evaluator.experiment.constraints()
    # both on (nearly) all documents now, so values are compared and not what the panel says
    known = {
        name: {o: replace(e, rank_value=None) for o, e in estimates.items()}
        for name, estimates in parents.estimates.items()
    }
    able = [n for n, e in promoted.items() if total_violation(rules, e, known) <= 0]
    keep = nondominated(losses(objectives, [promoted[n] for n in able]))
    return {n for n, kept in zip(able, keep, strict=True) if kept}
