"""The search: ask, evaluate, tell; resumed by replaying what the ledger knows."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evoaim.config import Experiment
from evoaim.errors import CandidateError, ConfigError
from evoaim.evaluator import Evaluator
from evoaim.front import hypervolume, reference_point
from evoaim.ledger import Ledger, Trial, sqlite_url
from evoaim.manifest import check_manifest, identity
from evoaim.optimizers import Proposer
from evoaim.report.note import trial_note
from evoaim.results import Entry, Estimates, Results, front_of, losses
from evoaim.run_dir import RunDir, read_scores, write_json, write_scores, write_text
from fitness.types import Estimate, Scores, Split
from search_spaces.genes import Genome
from search_spaces.recipe import Recipe

PATIENCE = 50  # batches without a new candidate, after which the space counts as exhausted


@dataclass(frozen=True)
class Snapshot:
    """How far a search has come."""

    done: int
    budget: int | None
    failed: int
    front: int
    hypervolume: float
    parents_hypervolume: float
    best: Estimates  # per objective
    seconds: float  # of evaluation, earlier sessions included


class Progress(Protocol):
    """Who is told how the search goes."""

    def stage(self, text: str) -> None:
        """A new stage of the run begins."""

    def candidate(self, snapshot: Snapshot) -> None:
        """A candidate has been evaluated (or, on resume, all recorded ones have been replayed)."""


@dataclass(frozen=True)
class Silent:
    """Tells nobody."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def candidate(self, snapshot: Snapshot) -> None:
        """Nothing."""


def run_search(
    experiment: Experiment, run_dir: str | Path, progress: Progress | None = None
) -> Results:
    """Run a search, or resume the one in `run_dir`, to the end of its budget.

    What was recorded is not evaluated again; a search killed at any point and resumed has the same
    trials as an uninterrupted one. KeyboardInterrupt passes through, everything finished is kept.

    Raises:
        ConfigError, SpaceError, FitnessError: the experiment, the models or the run directory are
            wrong; nothing has been written then.
    """
    progress = progress or Silent()
    run = RunDir(Path(run_dir))
    run.check(experiment.to_dict())
    progress.stage("loading models and tasks")
    evaluator = Evaluator.of(experiment)
    module, params = experiment.plugin("optimizer")
    seeds = evaluator.space.seeds()
    proposer = module.build(
        evaluator.space.genes, len(evaluator.objectives), params, experiment.seed, seeds
    )
    with run.locked():
        run.check(experiment.to_dict())  # again: another search may have begun here meanwhile
        with run.begun(experiment.to_dict()):
            check_manifest(run, evaluator)
            ledger = Ledger.open(
                experiment.storage or sqlite_url(run.study),
                experiment.name,
                evaluator.objectives,
                evaluator.space.genes,
                identity(evaluator),
            )
        progress.stage("measuring importance")
        evaluator = evaluator.calibrated(run.importance)
        if evaluator.engine.importance is not None and not run.importance.exists():
            evaluator.engine.importance.save(run.importance)
        evaluator = evaluator.informed(run.statistics)
        progress.stage("scoring base and experts")
        parents = {
            name: evaluator.estimate(_scored(run, evaluator, name, recipe, "search"))
            for name, recipe in evaluator.parents().items()
        }
        if not run.parents.exists():
            write_json(run.parents, [e.to_dict() for e in _ancestors(evaluator, parents, {})])
        progress.stage("searching")
        _Loop(run, evaluator, ledger, parents, progress).run(proposer)
        progress.stage("re-scoring the front on the report documents")
        _finish(run, evaluator, ledger, parents)
    return Results.read(run)


class _Loop:
    """The state of one search: known answers, and what progress is told."""

    def __init__(
        self,
        run: RunDir,
        evaluator: Evaluator,
        ledger: Ledger,
        parents: Mapping[str, Estimates],
        progress: Progress,
    ) -> None:
        self.run_dir, self.evaluator, self.ledger, self.progress = run, evaluator, ledger, progress
        self.recorded = ledger.trials()
        self.trials: list[Trial] = []
        self.answers: dict[str, Estimates] = {}  # canonical genome -> estimates, {} when failed
        self.parents = losses(ledger.objectives, list(parents.values()))
        self.reference = reference_point(self.parents)
        self.front = self.parents[:0]  # losses of the non-dominated trials
        self.parents_volume = self.volume = hypervolume(self.parents, self.reference)
        self.best: dict[str, Estimate] = {}
        self.done, self.seconds = 0, 0.0

    def run(self, proposer: Proposer) -> None:
        """Until the budget is spent, the optimizer has finished, or the space is exhausted."""
        stale = 0
        while stale < PATIENCE and not self._spent():
            genomes = proposer.ask()
            if not genomes:
                return
            before = len(self.trials)
            for genome in genomes:
                key = json.dumps(genome)
                if key in self.answers:
                    continue
                if self._spent():
                    return
                self.answers[key] = self._trial(genome)
            stale = 0 if len(self.trials) > before else stale + 1
            answers = [self.answers[json.dumps(g)] for g in genomes]
            proposer.tell(losses(self.ledger.objectives, answers))

    def _trial(self, genome: Genome) -> Estimates:
        """The estimates of one new candidate: recorded ones if there are, else evaluated now."""
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
            trial = self._evaluate(number, genome)
        self._count(trial)
        if number + 1 >= len(self.recorded):
            self.progress.candidate(self._snapshot())
        return trial.estimates

    def _evaluate(self, number: int, genome: Genome) -> Trial:
        begin = time.perf_counter()
        recipe = self.evaluator.space.decode(genome)
        text = self.evaluator.stored(recipe, "..").to_yaml()
        write_text(self.run_dir.recipe(number), text)
        try:
            scores = self.evaluator.score(recipe, "search")
            estimates = self.evaluator.estimate(scores)
            bad = [n for n, e in estimates.items() if not np.isfinite(e.value)]
            if bad:
                raise CandidateError(f"objective '{bad[0]}' is not finite")
        except CandidateError as error:
            seconds = time.perf_counter() - begin
            self.ledger.fail(number, str(error), seconds)
            return Trial(number, genome, "failed", {}, seconds, str(error))
        seconds = time.perf_counter() - begin
        write_scores(self.run_dir.responses(f"trial_{number}", "search"), scores)
        self.ledger.note(number, trial_note(text, estimates, self.ledger.objectives))
        self.ledger.finish(number, estimates, seconds)
        return Trial(number, genome, "done", estimates, seconds)

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
        if trial.state != "done":
            return
        self.done += 1
        point = losses(self.ledger.objectives, [trial.estimates])
        for o, loss in zip(self.ledger.objectives, point[0], strict=True):
            if o.name not in self.best or loss < o.loss(self.best[o.name].value):
                self.best[o.name] = trial.estimates[o.name]
        if (self.front <= point).all(axis=1).any():
            return
        self.front = np.concatenate([self.front[~(point <= self.front).all(axis=1)], point])
        self.volume = hypervolume(np.concatenate([self.front, self.parents]), self.reference)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            len(self.trials),
            self.evaluator.experiment.budget.candidates,
            len(self.trials) - self.done,
            len(self.front),
            self.volume,
            self.parents_volume,
            dict(self.best),
            self.seconds,
        )


def _finish(
    run: RunDir, evaluator: Evaluator, ledger: Ledger, parents: Mapping[str, Estimates]
) -> None:
    """Re-score front and parents on the report documents; write front.json and parents.json."""
    entries = []
    for trial in front_of(ledger.objectives, ledger.trials()):
        recipe = evaluator.space.decode(trial.genome)
        report = evaluator.estimate(
            _scored(run, evaluator, f"trial_{trial.number}", recipe, "report")
        )
        entries.append(
            Entry(
                f"trial {trial.number}",
                trial.number,
                trial.genome,
                evaluator.stored(recipe, str(run.path)).to_dict(),
                trial.estimates,
                report,
            )
        )
    reports = {
        name: evaluator.estimate(_scored(run, evaluator, name, recipe, "report"))
        for name, recipe in evaluator.parents().items()
    }
    write_json(run.parents, [e.to_dict() for e in _ancestors(evaluator, parents, reports)])
    write_json(run.front, [e.to_dict() for e in entries])


def _ancestors(
    evaluator: Evaluator, parents: Mapping[str, Estimates], reports: Mapping[str, Estimates]
) -> list[Entry]:
    """Base and experts as they stand in parents.json."""
    return [
        Entry(name, None, {}, recipe.to_dict(), parents[name], reports.get(name))
        for name, recipe in evaluator.parents().items()
    ]


def _scored(run: RunDir, evaluator: Evaluator, who: str, recipe: Recipe, split: Split) -> Scores:
    """Scores of a recipe, from the run directory if the same documents were scored before."""
    path = run.responses(who, split)
    known = read_scores(path)
    if known is not None and _same_documents(known, evaluator, split):
        return known
    scores = evaluator.score(recipe, split)
    write_scores(path, scores)
    return scores


def _same_documents(scores: Scores, evaluator: Evaluator, split: Split) -> bool:
    panel = evaluator.panels[split]
    for objective in evaluator.objectives:
        for metric in objective.metrics:
            hashes = evaluator.harness.documents(metric.task, split)
            wanted = tuple(hashes[i] for i in panel.documents[metric.task])
            if metric.key not in scores or scores[metric.key].documents != wanted:
                return False
    return True
