"""The loop of a search: ask, evaluate, tell; what is recorded is replayed, not computed again."""

import json
import time
from collections.abc import Sequence

import numpy as np

from evoaim.constraints import total_violation
from evoaim.errors import CandidateError, ConfigError
from evoaim.evaluator import Evaluator
from evoaim.front import hypervolume, reference_point, spread
from evoaim.ledger import Ledger, Trial
from evoaim.optimizers import Proposer
from evoaim.parents import Parents
from evoaim.promote import Promoter
from evoaim.race import Race
from evoaim.report.note import trial_note
from evoaim.results import losses
from evoaim.run_dir import RunDir, write_scores, write_text
from evoaim.snapshot import Progress, Snapshot
from fitness.errors import FitnessError
from fitness.racing import MEMBERS
from fitness.scheme import Scheme
from fitness.types import Estimate, Scores
from search_spaces.genes import Genome

PATIENCE = 50  # batches without a new candidate, after which the space counts as exhausted


class Loop:
    """The state of one search: known answers, and what progress is told."""

    def __init__(
        self,
        run: RunDir,
        evaluator: Evaluator,
        ledger: Ledger,
        parents: Parents,
        progress: Progress,
    ) -> None:
        self.run_dir, self.evaluator, self.ledger, self.progress = run, evaluator, ledger, progress
        self.parents = parents
        self.promoter = Promoter(run, evaluator, parents)
        self.recorded = ledger.trials()
        self.trials: list[Trial] = []
        self.answers: dict[str, Trial] = {}  # canonical genome -> trial
        self.constraints = evaluator.experiment.constraints()
        self.rule = evaluator.experiment.fitness.rule()
        points = losses(ledger.objectives, list(parents.estimates.values()))
        self.reference = reference_point(points)
        self.front: list[Trial] = []  # the non-dominated eligible trials
        self.parent_points = points
        self.parents_volume = self.volume = hypervolume(points, self.reference)
        self.best: dict[str, Estimate] = {}
        self.failed = self.documents = 0
        self.seconds = 0.0

    def run(self, proposer: Proposer) -> None:
        """Until the budget is spent, the optimizer has finished, or the space is exhausted."""
        stale = 0
        while stale < PATIENCE and not self._spent():
            genomes = proposer.ask()
            if not genomes:
                return
            before = len(self.trials)
            rivals = self._rivals()  # the same for the whole batch, in whatever order it is run
            self.promoter.keep(rivals)
            for genome in genomes:
                key = json.dumps(genome)
                if key in self.answers:
                    continue
                if self._spent():
                    return
                self.answers[key] = self._trial(genome, rivals)
            stale = 0 if len(self.trials) > before else stale + 1
            answers = [self.answers[json.dumps(g)] for g in genomes]
            told = losses(self.ledger.objectives, [t.estimates for t in answers])
            proposer.tell(told, np.array([_violation(t) for t in answers]))
            self.promoter.during(self.front, self.documents)

    def _trial(self, genome: Genome, rivals: Sequence[Trial]) -> Trial:
        """One new candidate: as recorded if it is, else evaluated now."""
        number = len(self.trials)
        known = self.recorded[number] if number < len(self.recorded) else None
        if known is not None and dict(known.genome) != dict(genome):
            raise ConfigError(
                f"trial {number} is recorded with {dict(known.genome)}, but the optimizer now "
                f"proposes {dict(genome)}; was the run made with other versions (manifest.json)? "
                "Start a new run directory"
            )
        if known is not None and known.state != "running":
            trial = known
        else:
            if known is None:
                self.ledger.start(number, genome)
            trial = self._evaluate(number, genome, rivals)
        self._count(trial)
        if number + 1 >= len(self.recorded):
            self.progress.candidate(self._snapshot())
        return trial

    def _evaluate(self, number: int, genome: Genome, rivals: Sequence[Trial]) -> Trial:
        begin = time.perf_counter()
        recipe = self.evaluator.space.decode(genome)
        text = self.evaluator.stored(recipe, "..").to_yaml()
        write_text(self.run_dir.recipe(number), text)
        scheme = self.promoter.scheme()
        race = Race(scheme, self.rule, [self.promoter.scores(t) for t in rivals])
        try:
            scores = self.evaluator.score(recipe, "search", scheme.blocks(), race)
            estimates = _estimated(scheme, scores, race.look)
            bad = [n for n, e in estimates.items() if not np.isfinite(e.value)]
            if bad:
                raise CandidateError(f"objective '{bad[0]}' is not finite")
        except CandidateError as error:
            seconds = time.perf_counter() - begin
            self.ledger.fail(number, str(error), seconds)
            return Trial(number, genome, "failed", {}, seconds, str(error))
        write_scores(self.run_dir.responses(f"trial_{number}", "search"), scores)
        violation = total_violation(self.constraints, estimates, self.parents.estimates)
        note = trial_note(text, estimates, self.ledger.objectives, race.beaten, violation)
        self.ledger.note(number, note)
        seconds = time.perf_counter() - begin
        run = scheme.documents_at(race.look)
        trial = Trial(number, genome, "done", estimates, seconds, "", race.beaten, violation, run)
        self.ledger.finish(trial)
        return trial

    def _rivals(self) -> list[Trial]:
        """Front members that the next candidates race against: some that are far apart."""
        if self.rule is None or not self.front:
            return []
        members = losses(self.ledger.objectives, [t.estimates for t in self.front])
        return [self.front[i] for i in spread(members, MEMBERS)]

    def _spent(self) -> bool:
        budget = self.evaluator.experiment.budget
        minutes = self.seconds / 60
        return (budget.candidates is not None and len(self.trials) >= budget.candidates) or (
            budget.minutes is not None and minutes >= budget.minutes
        )

    def _count(self, trial: Trial) -> None:
        """Take a trial into the running figures; costs a comparison with the front alone."""
        self.trials.append(trial)
        self.seconds += trial.seconds
        self.failed += trial.state == "failed"
        self.documents += trial.documents
        if not trial.eligible:
            return
        point = losses(self.ledger.objectives, [trial.estimates])
        for o, loss in zip(self.ledger.objectives, point[0], strict=True):
            if o.name not in self.best or loss < o.loss(self.best[o.name].ranked):
                self.best[o.name] = trial.estimates[o.name]
        members = losses(self.ledger.objectives, [t.estimates for t in self.front])
        if (members <= point).all(axis=1).any():
            return
        kept = [not (point[0] <= m).all() for m in members]
        self.front = [t for t, keep in zip(self.front, kept, strict=True) if keep] + [trial]
        points = np.concatenate([members[kept], point, self.parent_points])
        self.volume = hypervolume(points, self.reference)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            len(self.trials),
            self.evaluator.experiment.budget.candidates,
            self.failed,
            sum(t.raced for t in self.trials),
            len(self.front),
            self.volume,
            self.parents_volume,
            dict(self.best),
            self.seconds,
            self.documents,
        )


def _violation(trial: Trial) -> float:
    """What the optimizer is told: below 1 for broken constraints, more for the raced out."""
    return trial.raced + trial.violation / (1 + trial.violation)


def _estimated(scheme: Scheme, scores: Scores, look: float) -> dict[str, Estimate]:
    """A candidate's estimates; one that gives the tasks nothing to score has failed."""
    try:
        return scheme.estimate(scores, look)
    except FitnessError as error:
        raise CandidateError(str(error)) from None
