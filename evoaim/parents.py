"""Base and experts: what they scored on the search documents, and the scheme that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evoaim.evaluator import Evaluator
from evoaim.results import Entry, Estimates
from evoaim.reuse import Reused
from evoaim.run_dir import RunDir, read_scores, write_models, write_scores
from fitness.promotion import Extension
from fitness.responses import join
from fitness.scheme import Scheme
from fitness.types import Panel, Scores, Split
from search_spaces.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Parents:
    """What a search knows before its first candidate.

    Args:
        scheme: what every candidate is put through.
        known: name -> scores of models that were scored in full, base and experts first.
        n: how many of them are base and experts; 0 if the scheme needs none in full.
        estimates: of base and experts, by name.
    """

    scheme: Scheme
    known: Mapping[str, Scores]
    n: int
    estimates: Mapping[str, Estimates]


def score_parents(run: RunDir, evaluator: Evaluator, reused: Reused) -> Parents:
    """Score base and experts, as far as the run directory does not have them yet.

    On all search documents if panel or estimator learn from them, else on the panel alone.

    Args:
        run: where scores are kept.
        evaluator: of the experiment.
        reused: what earlier runs lend; it is kept with the run.
    """
    recipes = evaluator.parents()
    if not evaluator.plan().needs_references:
        scheme = evaluator.scheme({}, 0)
        panel = scheme.panel
        scores = {n: scored(run, evaluator, n, "search", panel) for n in recipes}
        return Parents(scheme, {}, 0, {n: scheme.estimate(s) for n, s in scores.items()})
    everything = evaluator.documents["search"]
    for name, known_scores in reused.parents.items():
        if not run.responses(name, "search").is_file():
            write_scores(run.responses(name, "search"), known_scores)
    scores = {n: scored(run, evaluator, n, "search", everything) for n in recipes}
    if evaluator.experiment.responses and not run.reused.is_file():
        write_models(run.reused, reused.others)
    known = {**scores, **reused.others}
    scheme = evaluator.scheme(known, len(scores))
    estimates = {n: _in_full(scheme, s) for n, s in scores.items()}
    return Parents(scheme, known, len(scores), estimates)


def ancestors(
    evaluator: Evaluator, search: Mapping[str, Estimates], reports: Mapping[str, Estimates]
) -> list[Entry]:
    """Base and experts as they stand in parents.json."""
    return [
        Entry(name, None, {}, recipe.to_dict(), search[name], reports.get(name))
        for name, recipe in evaluator.parents().items()
    ]


def scored(
    run: RunDir,
    evaluator: Evaluator,
    who: str,
    split: Split,
    panel: Panel,
    recipe: Recipe | None = None,
) -> Scores:
    """Scores of a model on these documents and others; what the run directory lacks is run now.

    Args:
        run: where they are kept.
        evaluator: runs what is missing.
        who: a parent's name, or a trial's.
        split: which documents.
        panel: of which all must be scored.
        recipe: of the model; None: it is a parent.
    """
    path = run.responses(who, split)
    known = read_scores(path) or {}
    missing = _missing(known, evaluator, split, panel)
    if not len(missing):
        return known
    new = evaluator.score(recipe or evaluator.parents()[who], split, [missing])
    scores = join(known, new)
    write_scores(path, scores)
    return scores


def _in_full(scheme: Scheme, scores: Scores) -> Estimates:
    """The exact figures, but what candidates are compared with is the panel's."""
    on_panel = scheme.estimate(scores)
    exact = Extension.of(scheme).estimate(scores, 1.0)
    return {name: replace(e, rank_value=on_panel[name].ranked) for name, e in exact.items()}


def _missing(scores: Scores, evaluator: Evaluator, split: Split, panel: Panel) -> Panel:
    """The documents of the panel that lack a score of some objective's metric."""
    missing = {}
    for task, positions in panel.documents.items():
        hashes = evaluator.scorer.documents(task, split)
        keys = {m.key for o in evaluator.objectives for m in o.metrics if m.task == task}
        have = [set(scores[k].documents) if k in scores else set() for k in keys]
        common = set[str].intersection(*have)
        left = tuple(p for p in positions if hashes[p] not in common)
        if left:
            missing[task] = left
    return Panel(missing)
