"""Base and experts: what they scored on the search documents, and the scheme that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evoaim.evaluator import Evaluator
from evoaim.results import Entry, Estimates
from evoaim.reuse import Reused
from evoaim.run_dir import RunDir, write_models, write_scores
from evoaim.scored import Wanted, scored
from evoaim.work import Workers
from fitness.promotion import Extension
from fitness.scheme import Scheme
from fitness.types import Panel, Scores


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


def score_parents(run: RunDir, evaluator: Evaluator, workers: Workers, reused: Reused) -> Parents:
    """Score base and experts, as far as the run directory does not have them yet.

    On all search documents if panel or estimator learn from them, else on the panel alone.

    Args:
        run: where scores are kept.
        evaluator: of the experiment.
        workers: do the scoring.
        reused: what earlier runs lend; it is kept with the run.
    """
    if not evaluator.plan().needs_references:
        scheme = evaluator.scheme({}, 0)
        panel = scheme.panel
        scores = _all(run, evaluator, workers, panel)
        return Parents(scheme, {}, 0, {n: scheme.estimate(s) for n, s in scores.items()})
    everything = evaluator.documents["search"]
    for name, known_scores in reused.parents.items():
        if not run.responses(name, "search").is_file():
            write_scores(run.responses(name, "search"), known_scores)
    scores = _all(run, evaluator, workers, everything)
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


def _in_full(scheme: Scheme, scores: Scores) -> Estimates:
    """The exact figures, but what candidates are compared with is the panel's."""
    on_panel = scheme.estimate(scores)
    exact = Extension.of(scheme).estimate(scores, 1.0)
    return {name: replace(e, rank_value=on_panel[name].ranked) for name, e in exact.items()}


def _all(run: RunDir, evaluator: Evaluator, workers: Workers, panel: Panel) -> dict[str, Scores]:
    """Base and experts on the same documents, by name."""
    wanted = [Wanted(n, "search", panel, r) for n, r in evaluator.parents().items()]
    return {n: answer.given() for n, answer in scored(run, evaluator, workers, wanted).items()}
