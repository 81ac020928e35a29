"""The loop of a search of merges: candidates from the optimizer to the workers, answers back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evoaim.ask_tell import Candidate, Search
from evoaim.constraints import total_violation
from evoaim.errors import CandidateError
from evoaim.evaluator import Evaluator
from evoaim.front import spread
from evoaim.ledger import Trial
from evoaim.parents import Parents
from evoaim.promote import Promoter
from evoaim.race import Race
from evoaim.report.note import trial_note
from evoaim.run_dir import RunDir, read_scores, write_scores, write_text
from evoaim.snapshot import Progress
from evoaim.standing import Standing
from evoaim.work import Answer, Job, Workers
from fitness.errors import FitnessError
from fitness.racing import MEMBERS
from fitness.scheme import Scheme
from fitness.table import panel_row
from fitness.types import Estimate, Scores


@dataclass(frozen=True)
class _Open:
    """A candidate that is with the workers."""

    candidate: Candidate
    scheme: Scheme
    recipe: str  # the text of its file


class Loop:
    """Makes jobs of candidates and trials of answers; watches its search (see `Watcher`)."""

    def __init__(
        self,
        run: RunDir,
        evaluator: Evaluator,
        workers: Workers,
        parents: Parents,
        progress: Progress,
    ) -> None:
        self._run, self._evaluator, self._workers = run, evaluator, workers
        self._parents, self._progress = parents, progress
        self._promoter = Promoter(run, evaluator, workers, parents)
        self._constraints = evaluator.experiment.constraints()
        self._rule = evaluator.experiment.fitness.rule()
        self.n = workers.n
        self._rivals: Sequence[Trial] = ()  # the same for a whole batch, in whatever order it runs

    def run(self, search: Search) -> None:
        """Until the search has ended."""
        open_: dict[int, _Open] = {}
        if not search.done and search.batch_size < self.n:
            self._progress.stage(
                f"the optimizer asks for {search.batch_size} candidates at a time: "
                f"{self.n - search.batch_size} of {self.n} workers wait (see population or batch)"
            )
        while not search.done:
            for candidate in search.ask(self._workers.n - len(open_)):
                open_[candidate.number] = self._begin(candidate)
            if open_:
                number, answer = self._workers.answer()
                self._record(search, open_.pop(number), answer)

    def batch_begins(self, standing: Standing) -> None:
        """Front members that the batch races against: some that are far apart."""
        front = standing.front
        if self._rule is not None and front:
            members = standing.points(front)
            self._rivals = [front[i] for i in spread(members, MEMBERS)]
        self._promoter.keep(self._rivals)

    def candidate(self, standing: Standing) -> None:
        """See `Watcher`."""
        budget = self._evaluator.experiment.budget.candidates
        self._progress.candidate(standing.snapshot(budget))

    def batch_ends(self, standing: Standing) -> None:
        """See `Watcher`."""
        self._promoter.during(standing.front, standing.documents)

    def documents(self, trial: Trial) -> NDArray[np.float64]:
        """A trial's scores on the panel, every metric of every objective, the larger the better."""
        known = read_scores(self._run.responses(f"trial_{trial.number}", "search"))
        return panel_row(self._parents.scheme, known or self._promoter.scores(trial))

    def _begin(self, candidate: Candidate) -> _Open:
        scheme = self._promoter.scheme()
        recipe = self._evaluator.space.decode(candidate.genome)
        text = self._evaluator.stored(recipe, "..").to_yaml()
        write_text(self._run.recipe(candidate.number), text)
        race = Race(scheme, self._rule, [self._promoter.scores(t) for t in self._rivals])
        self._workers.submit(candidate.number, Job(recipe, "search", scheme.blocks(), race))
        return _Open(candidate, scheme, text)

    def _record(self, search: Search, open_: _Open, answer: Answer) -> None:
        candidate, scheme = open_.candidate, open_.scheme
        number, genome, seconds = candidate.number, candidate.genome, answer.seconds
        try:
            scores = answer.given()
            estimates = _estimated(scheme, scores, answer.look)
        except CandidateError as error:
            search.record(Trial(number, genome, "failed", {}, seconds, str(error)))
            return
        write_scores(self._run.responses(f"trial_{number}", "search"), scores)
        violation = total_violation(self._constraints, estimates, self._parents.estimates)
        objectives = search.ledger.objectives
        note = trial_note(open_.recipe, estimates, objectives, answer.beaten, violation)
        run = scheme.documents_at(answer.look)
        trial = Trial(number, genome, "done", estimates, seconds, "", answer.beaten, violation, run)
        search.record(trial, note)


def _estimated(scheme: Scheme, scores: Scores, look: float) -> dict[str, Estimate]:
    """A candidate's estimates; one that gives the tasks nothing to score has failed."""
    try:
        estimates = scheme.estimate(scores, look)
    except FitnessError as error:
        raise CandidateError(str(error)) from None
    bad = [n for n, e in estimates.items() if not np.isfinite(e.value)]
    if bad:
        raise CandidateError(f"objective '{bad[0]}' is not finite")
    return estimates
