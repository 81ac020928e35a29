"""A search from an experiment to its front: what happens before and after the loop."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from evoaim.ask_tell import Search
from evoaim.config import Experiment
from evoaim.document_rows import DocumentRows
from evoaim.errors import ConfigError, under
from evoaim.evaluator import Evaluator
from evoaim.ledger import Ledger, Trial
from evoaim.loop import Loop
from evoaim.manifest import check_manifest, count_seeds, identity
from evoaim.optimizers._schedule import build_schedule
from evoaim.parents import Parents, ancestors, score_parents
from evoaim.promote import finalists
from evoaim.results import Entry, Estimates, Results, losses
from evoaim.reuse import earlier_responses, kept_responses
from evoaim.run_dir import RunDir, write_json
from evoaim.scored import Wanted, scored
from evoaim.seed_weights import seed_weights
from evoaim.snapshot import Progress, Silent, Snapshot
from evoaim.storage_url import caution, sqlite_url
from evoaim.warm_start import earlier_genomes, keep_genomes, kept_genomes
from evoaim.work import Alone, Workers
from search_spaces.genes import Genome

__all__ = ["Progress", "Silent", "Snapshot", "run_search"]


def run_search(
    experiment: Experiment,
    run_dir: str | Path,
    progress: Progress | None = None,
    workers: int | Workers = 1,
    ray: str | None = None,
) -> Results:
    """Run a search, or resume the one in `run_dir`, to the end of its budget.

    What was recorded is not evaluated again; a search killed at any point and resumed, with any
    number of workers, has the same trials as an uninterrupted one. KeyboardInterrupt passes
    through, everything finished is kept.

    Args:
        experiment: what is searched.
        run_dir: where everything is kept.
        progress: is told how it goes.
        workers: how many candidates are scored at the same time; 1: in this process, more: by as
            many processes, which take the CUDA devices in turn. Or who scores them.
        ray: address of a Ray cluster whose actors do the work ("auto": the one that is running
            here, "local": a new one on this machine); None: no Ray.

    Raises:
        ConfigError, SpaceError, FitnessError: the experiment, the models or the run directory are
            wrong; nothing has been written then.
    """
    progress = progress or Silent()
    run = RunDir(Path(run_dir))
    run.check(experiment.to_dict())
    progress.stage("loading models and tasks")
    with hire(experiment, workers, ray) as hired:
        evaluator = Evaluator.of(experiment) if hired is None else Evaluator.at_a_desk(experiment)
        crew: Workers = hired or Alone(evaluator)
        if crew.n > 1:
            progress.stage(f"{crew.n} workers: {', '.join(crew.devices)}")
        reused = kept_responses(run) or earlier_responses(experiment, evaluator)
        with under("warm_start"):
            warm = kept_genomes(run) or earlier_genomes(experiment, evaluator.space)
        evaluator.check(len(reused.others))
        with run.locked():
            run.check(experiment.to_dict())  # again: another search may have begun here meanwhile
            with run.begun(experiment.to_dict()):
                check_manifest(run, evaluator, crew.devices)
                keep_genomes(run, warm)
                url = experiment.storage or sqlite_url(run.study)
                if text := caution(url):
                    progress.stage(text)
                ledger = Ledger.open(
                    url,
                    experiment.name,
                    tuple(o for o in evaluator.objectives if o.optimized),
                    evaluator.space.genes,
                    identity(evaluator),
                )
            with ledger.held():
                progress.stage("measuring importance")
                crew.prepare(run)
                progress.stage("scoring base and experts")
                parents = score_parents(run, evaluator, crew, reused)
                if not run.parents.exists():
                    write_parents(run, evaluator, parents, {})
                progress.stage("searching")
                loop = Loop(run, evaluator, crew, parents, progress)
                weights = seed_weights(run, evaluator, parents)
                search = _search(run, evaluator, ledger, parents, loop, warm, weights)
                loop.run(search)
                progress.stage(f"{search.ended}; {len(search.trials)} candidates in all")
                _finish(run, evaluator, crew, parents, progress, ledger.trials())
    return Results.read(run)


@contextmanager
def hire(
    experiment: Experiment, workers: int | Workers, ray: str | None
) -> Iterator[Workers | None]:
    """Who does the work, let go at the end; None: this process. Others begin before it has loaded.

    Raises:
        ConfigError: they cannot be had.
    """
    crew: Workers
    if isinstance(workers, int) and workers < 1:
        raise ConfigError(f"--workers: 1 or more expected, got {workers}")
    if not isinstance(workers, int):
        crew = workers
    elif ray is not None:
        from evoaim.ray_workers import RayWorkers  # needs an extra

        crew = RayWorkers.start(experiment, workers, ray)
    elif workers > 1:
        from evoaim.processes import Processes

        crew = Processes.start(experiment, workers)
    else:
        yield None
        return
    try:
        yield crew
    finally:
        crew.close()


def _search(
    run: RunDir,
    evaluator: Evaluator,
    ledger: Ledger,
    parents: Parents,
    watcher: Loop,
    warm: Sequence[Genome],
    weights: Sequence[Mapping[str, float]],
) -> Search:
    """The search of an experiment: seeds first, then what earlier runs found."""
    experiment = evaluator.experiment
    plan = experiment.stages()
    seeds = evaluator.space.seeds(weights)
    count_seeds(run, len(seeds))
    initial = [*seeds, *warm]
    proposer = build_schedule(
        plan, evaluator.space.genes, len(ledger.objectives), experiment.seed, initial
    )
    points = losses(ledger.objectives, list(parents.estimates.values()))
    limits = experiment.budget.limits(watcher.n)
    rows = (
        DocumentRows(watcher.documents, recorded=True) if any(s.documents for s in plan) else None
    )
    return Search(proposer, ledger, limits, points, watcher, rows)


def _finish(
    run: RunDir,
    evaluator: Evaluator,
    workers: Workers,
    parents: Parents,
    progress: Progress,
    trials: Sequence[Trial],
) -> None:
    """Promote, re-score front and parents on the report documents, write the JSON files."""
    if evaluator.experiment.fitness.promoted() is not None:
        progress.stage("scoring the best candidates on more search documents")
    chosen = finalists(run, evaluator, workers, parents, trials, progress)
    progress.stage("re-scoring the front on the report documents")
    everything = evaluator.documents["report"]
    recipes = {f.trial.number: evaluator.space.decode(f.trial.genome) for f in chosen}
    wanted = [Wanted(n, "report", everything, r) for n, r in evaluator.parents().items()]
    wanted += [
        Wanted(f"trial_{n}", "report", everything, recipes[n])
        for n in (f.trial.number for f in chosen if f.kept)
    ]
    answers = scored(run, evaluator, workers, wanted, progress)
    entries = []
    for finalist in chosen:
        trial, report = finalist.trial, None
        if finalist.kept:
            answer = answers[f"trial_{trial.number}"]
            if answer.reason:
                progress.stage(f"trial {trial.number} leaves the front: {answer.reason}")
                continue
            report = evaluator.report(answer.scores)
        stored = evaluator.stored(recipes[trial.number], str(run.path)).to_dict()
        name = f"trial {trial.number}"
        entries.append(
            Entry(
                name, trial.number, trial.genome, stored, trial.estimates, report, finalist.promoted
            )
        )
    reports = {n: evaluator.report(answers[n].given()) for n in evaluator.parents()}
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
