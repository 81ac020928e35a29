"""Racing: is a candidate certainly worse than some front member, from the documents run so far?

A candidate that, over the whole panel, no front member beats in every objective is dropped with
probability `Rule.alpha` at most; the panel's documents come in a random order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import copysign, exp, fsum, inf, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from fitness.errors import FitnessError
from fitness.samples import Floats

MEMBERS = 5  # of the front, that a candidate is compared with
_INFORMATIVE = 6  # pairs that differ, before a z value means anything
_BETS = np.array([0.1, 0.2, 0.35, 0.5, 0.7])[:, None]  # shares of the largest bet that is safe
_DIFFERING = (0.25, 0.5, 0.75)  # shares of a panel; unlike small ones, large panels hardly care
_DRAWS = 20_000  # of a boundary: its alpha is within 0.003 of 0.05, 0.0014 of 0.01 (95%)
_TINY = 1e-12  # sums of differences that cancel


@dataclass(frozen=True, eq=False)
class Stream:
    """Candidate minus front member in one objective, larger is better for the candidate.

    Args:
        differences: per task of the objective, of the documents so far, in the panel's order; in
            [-1, 1] as long as documents are missing.
        sizes: per task, documents of the panel.

    Raises:
        FitnessError: more documents than the panel has, or a difference that is not allowed.
    """

    differences: tuple[Floats, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        largest = np.finfo(np.float64).max if self.complete else 1.0 + _TINY
        for x, size in zip(self.differences, self.sizes, strict=True):
            if len(x) > size or not (np.abs(x) <= largest).all():
                raise FitnessError(
                    f"racing: at most {size} finite differences expected, in [-1, 1] while "
                    f"documents are missing, got {len(x)}, in [{x.min()}, {x.max()}]"
                )

    @property
    def complete(self) -> bool:
        """Whether every document was run, so that the objective's difference is known."""
        return all(len(x) == n for x, n in zip(self.differences, self.sizes, strict=True))


def exact(difference: float) -> Stream:
    """Of an objective that is known without documents, such as a distance between weights."""
    return Stream((np.array([difference]),), (1,))


@dataclass(frozen=True)
class Rule:
    """When a candidate is dropped.

    Args:
        kind: "pocock": z tests with one boundary; they drop too much (up to 0.17 were measured)
            where few large gains make up for many small losses. "strict": bets, with a guarantee
            whatever the differences; slower to drop.
        alpha: probability of dropping a candidate that no front member beats.
        looks: shares of every task's panel after which candidates are judged (see `documents`).
        tolerance: only what is worse by more than this is dropped.

    Raises:
        FitnessError: an argument out of its range.
    """

    kind: Literal["pocock", "strict"] = "pocock"
    alpha: float = 0.05
    looks: tuple[float, ...] = (0.08, 0.16, 0.32, 0.48, 0.72)
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise((0, *self.looks, 1 + _TINY)))
        if not (self.looks and increasing and 0 < self.alpha < 0.5 and self.tolerance >= 0):
            raise FitnessError(
                f"racing: looks must increase in (0, 1], alpha be in (0, 0.5), tolerance at least "
                f"0, got {self.looks}, {self.alpha} and {self.tolerance}"
            )


def documents(looks: Sequence[float], size: int) -> tuple[int, ...]:
    """Of a panel of `size`, how many documents have been run at each look."""
    return tuple(min(size, max(2, round(look * size))) for look in looks)


@lru_cache
def boundary(looks: tuple[float, ...], size: int, alpha: float) -> float:
    """c such that a tied candidate has z < -c at any look with probability `alpha` (Pocock 1977).

    The largest of those simulated for the shares of documents that differ in `_DIFFERING`.
    """
    lowest = min(_quantile(looks, size, alpha, share) for share in _DIFFERING)
    return max(-lowest * (1 + 1e-9), -NormalDist().inv_cdf(alpha))  # what equals c is no drop


def _quantile(looks: tuple[float, ...], size: int, alpha: float, share: float) -> float:
    # Of the lowest z of 0/1 scores: the wins and losses that a look adds are hypergeometric.
    rng = np.random.default_rng(0)
    half = min(max(round(size * share / 2), _INFORMATIVE), size // 2)
    won, lost, lowest = np.zeros((3, _DRAWS))
    for before, n in pairwise((0, *documents(looks, size))):
        if n == size:
            break
        wins, losses = (half - won).astype(int), (half - lost).astype(int)  # to come
        new = rng.hypergeometric(wins, size - before - wins, n - before)
        won += new
        lost += rng.hypergeometric(losses, size - before - wins - losses, n - before - new)
        mean = (won - lost) / n
        error = ((won + lost) / n - mean**2) / (n - 1) * (1 - n / size)
        z = mean / np.sqrt(np.maximum(error, _TINY))
        lowest = np.where(won + lost >= _INFORMATIVE, np.minimum(lowest, z), lowest)
    return float(np.quantile(lowest, alpha, method="inverted_cdf"))


def paired_z(stream: Stream, tolerance: float = 0.0) -> float:
    """Mean difference (of the tasks' means) over its standard error; negative: worse.

    With a finite-population correction for each task; infinite, or 0 for a tie, if there is no
    error, as in a complete stream. It is 0 before six pairs differ; where they differ by unequal
    amounts, six is their effective number (Kish 1965).
    """
    tasks = [(x, len(x), n) for x, n in zip(stream.differences, stream.sizes, strict=True)]
    if any(seen < min(n, 2) for _, seen, n in tasks):
        return 0.0
    influence = np.concatenate([np.abs(x) / seen for x, seen, _ in tasks])
    informative = influence.sum() ** 2 >= (_INFORMATIVE - _TINY) * (influence**2).sum()
    mean = sum(float(x.mean()) for x, _, _ in tasks) / len(tasks) + tolerance
    if abs(mean) < _TINY or not (informative or stream.complete):
        return 0.0
    variance = sum(x.var(ddof=1) / seen * (1 - seen / n) for x, seen, n in tasks if seen < n)
    error = sqrt(variance) / len(tasks)
    return mean / error if error > _TINY else copysign(inf, mean)


def evidence(stream: Stream, looks: Sequence[float], tolerance: float = 0.0) -> float:
    """Capital of bets that the candidate is worse (Waudby-Smith and Ramdas 2020, WOR betting).

    If it is not, the capital is a nonnegative supermartingale that starts at 1, so it ever reaches
    1/alpha with probability alpha at most. It moves when all tasks have reached the next look.
    """
    tasks = list(zip(stream.differences, stream.sizes, strict=True))
    best = sum((float(x.sum()) + n - len(x)) / n for x, n in tasks) / len(tasks)
    if stream.complete or best + tolerance < -_TINY:  # known, or lost whatever comes
        return inf if best + tolerance < -_TINY else 0.0
    gained, growth = [0.0] * len(tasks), np.zeros(len(_BETS))
    ends = zip(*((0, *documents(looks, n)) for _, n in tasks), strict=True)
    for starts, stops in pairwise(ends):
        if any(stop > len(x) for stop, (x, _) in zip(stops, tasks, strict=True)):
            break
        # Not being worse says nothing of the mean mu_t of what remains of one task, only that
        # mean_t left_t mu_t >= needed. The capital is multiplied by 1 - stake (c_t x - needed) for
        # each of the K = sum_t k_t new documents, c_t = left_t K / (k_t T), at most 1 on average:
        # within a task, without replacement, E prod <= (1 - stake (c_t mu_t - needed))^k_t
        # (Maclaurin); tasks are independent, and by the inequality of the means their product is
        # at most (1 - stake (mean_t left_t mu_t - needed))^K. A task that does not move may have
        # mu_t = 1. All streams share these steps, so averages of their capitals are as valid.
        new = [x[a:b] for (x, _), a, b in zip(tasks, starts, stops, strict=True)]
        left = [1 - a / n for (_, n), a in zip(tasks, starts, strict=True)]
        idle = sum(part for x, part in zip(new, left, strict=True) if not len(x))
        share = sum(map(len, new)) / len(tasks)
        c = [part * share / max(len(x), 1) for x, part in zip(new, left, strict=True)]
        needed = -tolerance - (sum(gained) + idle) / len(tasks)
        stake = _BETS / max(max(c) - needed, _TINY)
        for t, x in enumerate(new):
            growth += np.log1p(-stake * (c[t] * x - needed)).sum(axis=1)
            gained[t] += float(x.sum()) / tasks[t][1]
    return sum(exp(min(g, 700.0)) for g in growth.tolist()) / len(_BETS)


def is_beaten(members: Sequence[Sequence[Stream]], rule: Rule) -> bool:
    """Whether a front member is better in every objective; to be asked at the rule's looks only.

    `members`: per front member, the streams of all objectives. Better in every one
    is an intersection, for which objectives need no correction; members get Bonferroni's in z
    tests, and the bets against them are averaged.
    """
    if rule.kind == "strict":
        capital = [min(evidence(s, rule.looks, rule.tolerance) for s in row) for row in members]
        return bool(capital) and fsum(capital) >= len(capital) / rule.alpha
    alpha = rule.alpha / max(len(members), 1)
    return any(
        all(paired_z(s, rule.tolerance) < -boundary(rule.looks, sum(s.sizes), alpha) for s in row)
        for row in members
    )
