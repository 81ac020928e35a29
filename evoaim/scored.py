"""Scores of models that a run wants: what its directory has, and the rest from the workers."""

from collections.abc import Iterable
from dataclasses import dataclass

from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir, read_scores, write_scores
from evoaim.snapshot import Progress, Silent
from evoaim.work import Answer, Job, Workers, answers
from fitness.responses import join
from fitness.types import Panel, Scores, Split
from search_spaces.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Wanted:
    """A model, and the documents that must be scored.

    Args:
        who: a parent's name, or a trial's.
        split: which documents.
        panel: of which all must be scored.
        recipe: of the model.
    """

    who: str
    split: Split
    panel: Panel
    recipe: Recipe


def scored(
    run: RunDir,
    evaluator: Evaluator,
    workers: Workers,
    wanted: Iterable[Wanted],
    progress: Progress | None = None,
) -> dict[str, Answer]:
    """Scores on these documents and others, by name, in the order asked for.

    Args:
        run: where they are kept; every answer is written as soon as it is there.
        evaluator: knows the documents.
        workers: run what is missing.
        wanted: distinct models.
        progress: is told how many of the missing are done.
    """
    wanted = list(wanted)
    found = {w.who: Answer(read_scores(run.responses(w.who, w.split)) or {}, 0.0) for w in wanted}
    left = [(w, m) for w in wanted if len(m := _missing(found[w.who].scores, evaluator, w))]
    jobs = [Job(w.recipe, w.split, (missing,)) for w, missing in left]
    tell = getattr(progress, "scored", Silent().scored)  # optional: it came later
    if jobs:
        tell(0, len(jobs))
    for done, (i, answer) in enumerate(answers(workers, jobs), start=1):
        w, _ = left[i]
        if not answer.reason:
            scores = join(found[w.who].scores, answer.scores)
            write_scores(run.responses(w.who, w.split), scores)
            answer = Answer(scores, answer.seconds)
        found[w.who] = answer
        tell(done, len(jobs))
    return found


def _missing(scores: Scores, evaluator: Evaluator, wanted: Wanted) -> Panel:
    """The documents of the panel that lack a score of some objective's metric."""
    missing = {}
    for task, positions in wanted.panel.documents.items():
        hashes = evaluator.scorer.documents(task, wanted.split)
        keys = {m.key for o in evaluator.objectives for m in o.metrics if m.task == task}
        have = [set(scores[k].documents) if k in scores else set() for k in keys]
        common = set[str].intersection(*have)
        left = tuple(p for p in positions if hashes[p] not in common)
        if left:
            missing[task] = left
    return Panel(missing)
