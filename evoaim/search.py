"""A search from an experiment to its front: what happens before and after the loop."""

from collections.abc import Mapping
from pathlib import Path

from evoaim.config import Experiment
from evoaim.errors import CandidateError
from evoaim.evaluator import Evaluator
from evoaim.ledger import Ledger, sqlite_url
from evoaim.loop import Loop
from evoaim.manifest import check_manifest, identity
from evoaim.parents import Parents, ancestors, score_parents, scored
from evoaim.promote import finalists
from evoaim.results import Entry, Estimates, Results
from evoaim.reuse import earlier_responses, kept_responses
from evoaim.run_dir import RunDir, write_json
from evoaim.snapshot import Progress, Silent, Snapshot

__all__ = ["Progress", "Silent", "Snapshot", "run_search"]


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
    optimized = tuple(o for o in evaluator.objectives if o.optimized)
    module, params = experiment.optimizer_plugin()
    seeds = evaluator.space.seeds()
    proposer = module.build(evaluator.space.genes, len(optimized), params, experiment.seed, seeds)
    reused = kept_responses(run) or earlier_responses(experiment, evaluator)
    evaluator.check(len(reused.others))
    with run.locked():
        run.check(experiment.to_dict())  # again: another search may have begun here meanwhile
        with run.begun(experiment.to_dict()):
            check_manifest(run, evaluator)
            ledger = Ledger.open(
                experiment.storage or sqlite_url(run.study),
                experiment.name,
                optimized,
                evaluator.space.genes,
                identity(evaluator),
            )
        progress.stage("measuring importance")
        evaluator = evaluator.calibrated(run.importance)
        if evaluator.engine.importance is not None and not run.importance.exists():
            evaluator.engine.importance.save(run.importance)
        evaluator = evaluator.informed(run.statistics)
        progress.stage("scoring base and experts")
        parents = score_parents(run, evaluator, reused)
        if not run.parents.exists():
            write_parents(run, evaluator, parents, {})
        progress.stage("searching")
        loop = Loop(run, evaluator, ledger, parents, progress)
        loop.run(proposer)
        _finish(run, evaluator, loop, parents, progress)
    return Results.read(run)


def _finish(
    run: RunDir, evaluator: Evaluator, loop: Loop, parents: Parents, progress: Progress
) -> None:
    """Promote, re-score front and parents on the report documents, write the JSON files."""
    if evaluator.experiment.fitness.promoted() is not None:
        progress.stage("scoring the best candidates on more search documents")
    trials = loop.ledger.trials()
    chosen = finalists(run, evaluator, parents, trials)
    progress.stage("re-scoring the front on the report documents")
    everything = evaluator.documents["report"]
    entries = []
    for finalist in chosen:
        trial, report = finalist.trial, None
        recipe = evaluator.space.decode(trial.genome)
        if finalist.kept:
            who = f"trial_{trial.number}"
            try:
                scores = scored(run, evaluator, who, "report", everything, recipe)
            except CandidateError as error:
                progress.stage(f"trial {trial.number} leaves the front: {error}")
                continue
            report = evaluator.report(scores)
        stored = evaluator.stored(recipe, str(run.path)).to_dict()
        name = f"trial {trial.number}"
        entries.append(
            Entry(
                name, trial.number, trial.genome, stored, trial.estimates, report, finalist.promoted
            )
        )
    reports = {
        name: evaluator.report(scored(run, evaluator, name, "report", everything))
        for name in evaluator.parents()
    }
    write_parents(run, evaluator, parents, reports)
    write_json(run.front, [e.to_dict() for e in entries if e.report is not None])
    promoted = [e.to_dict() for e in entries if e.promoted is not None]
    # last: it says what the front was chosen from
    write_json(run.promoted, {"trials": len(trials), "promoted": promoted})


def write_parents(
    run: RunDir, evaluator: Evaluator, parents: Parents, reports: Mapping[str, Estimates]
) -> None:
    """Base and experts with what is known of them."""
    found = ancestors(evaluator, parents.estimates, reports)
    write_json(run.parents, [e.to_dict() for e in found])
