"""Two models side by side on the documents of a scheme: what racing decides by."""

import numpy as np

from fitness.racing import Stream, exact
from fitness.samples import Floats, Sample
from fitness.scheme import Scheme
from fitness.types import Metric, Objective, Scores

NOTHING: Floats = np.empty(0)


def streams(scheme: Scheme, mine: Scores, theirs: Scores, look: float) -> tuple[Stream, ...]:
    """What is known, for every optimized objective, of how much better I am.

    Only metrics whose documents score in [0, 1], each counting alike, tell anything before all
    documents were run: of others (perplexities, lengths) a part says too little of the whole.

    Args:
        scheme: that both were put through.
        mine: scores of the candidate, up to the look.
        theirs: scores of a front member.
        look: share of the panel that the candidate has run.
    """
    return tuple(_stream(scheme, o, mine, theirs, look) for o in scheme.objectives if o.optimized)


def _stream(
    scheme: Scheme, objective: Objective, mine: Scores, theirs: Scores, look: float
) -> Stream:
    sizes = tuple(len(scheme.selections[m.task]) for m in objective.metrics)
    both = [[scheme.sample(s, m, look) for s in (mine, theirs)] for m in objective.metrics]
    if all(len(pair[0].selection) == n for pair, n in zip(both, sizes, strict=True)):
        values = [_values(scheme, m, pair) for m, pair in zip(objective.metrics, both, strict=True)]
        gap = sum(objective.loss(their) - objective.loss(my) for my, their in values)
        return exact(gap / len(values))
    if not all(_even(own) for pair in both for own in pair):
        return Stream((NOTHING,) * len(sizes), sizes)
    parts = []
    for metric, (my, their) in zip(objective.metrics, both, strict=True):
        rule = scheme.rulers[metric.key]
        gap_here = rule.scores(my) - rule.scores(their)
        parts.append(gap_here if objective.goal == "maximize" else -gap_here)
    return Stream(tuple(parts), sizes)


def _values(scheme: Scheme, metric: Metric, pair: list[Sample]) -> tuple[float, float]:
    rule = scheme.rulers[metric.key]
    return rule.value(pair[0]), rule.value(pair[1])


def _even(own: Sample) -> bool:
    """Whether every document counts alike and scores in [0, 1]."""
    return bool((own.weight == 1).all() and ((own.total >= 0) & (own.total <= 1)).all())
