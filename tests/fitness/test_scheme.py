"""The scheme of a search: one panel and one comparison for all; promotion ends in exact figures."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from evoaim.registry import ESTIMATORS, SELECTORS
from fitness.duel import streams
from fitness.errors import FitnessError
from fitness.promotion import STAGES, Extension
from fitness.racing import Rule, is_beaten
from fitness.ranking import Ruler, ruler
from fitness.responses import covers, join, references, sample
from fitness.samples import References, Setting, everything
from fitness.scheme import Plan, Pool, Scheme, build, check
from fitness.types import DocumentScores, Metric, Objective, Scores

N = 120
MATH, ITALIAN = Metric("math", "acc", "maximize"), Metric("italian", "acc", "maximize")
TEXT = Metric("text", "perplexity", "minimize", "exp_neg_mean")
WEIGHTS = Metric("weights", "distance", "minimize", "exact")
OBJECTIVES = (
    Objective("math", "maximize", (MATH,)),
    Objective("both", "maximize", (MATH, ITALIAN)),
    Objective("text", "minimize", (TEXT,)),
    Objective("far", "minimize", (WEIGHTS,), optimized=False),
)
POOLS = {
    "math": Pool(tuple(range(0, 2 * N, 2)), tuple(f"m{i}" for i in range(N))),
    "italian": Pool(tuple(range(N)), tuple(f"i{i}" for i in range(N))),
    "text": Pool(tuple(range(7)), tuple(f"t{i}" for i in range(7)), whole=True),
    "weights": Pool((0,), ("weights",), whole=True),
}


def model(seed: int, skill: float = 0.0) -> Scores:
    """All scores of one model: accuracies with probabilities, a text, a distance."""
    rng = np.random.default_rng(seed)
    ease = np.random.default_rng(99).normal(0, 1.5, N)  # of the documents, for every model
    scores = {}
    for task in ("math", "italian"):
        soft = 1 / (1 + np.exp(-(ease + skill + rng.normal(0, 0.7, N))))
        right = (rng.random(N) < soft).astype(float)
        hashes = POOLS[task].documents
        scores[f"{task}/acc"] = DocumentScores(hashes, right, np.ones(N))
        scores[f"{task}/probability"] = DocumentScores(hashes, soft, np.ones(N))
    words = rng.integers(5, 20, 7).astype(float)
    scores["text/perplexity"] = DocumentScores(POOLS["text"].documents, -words * 1.5, words)
    scores["weights/distance"] = DocumentScores(("weights",), np.array([0.3]), np.ones(1))
    return scores


PARENTS = {f"p{i}": model(i) for i in range(4)}


def plan(
    estimator: str = "greg", n: int | None = 30, looks: tuple[float, ...] = (0.4, 1.0)
) -> Plan:
    module: Any = ESTIMATORS[estimator]
    selector: Any = SELECTORS[module.PANEL]
    return Plan((selector, selector.Params()), (module, module.Params(n)), looks, 0)


def scheme(**options: Any) -> Scheme:
    return build(OBJECTIVES, POOLS, PARENTS, len(PARENTS), plan(**options))


def only(scores: Scores, panel: Any) -> Scores:
    """The scores of a panel's documents, as a scorer returns them."""
    kept = {}
    for key, own in scores.items():
        task = key.split("/")[0]
        places = [POOLS[task].positions.index(p) for p in panel.documents.get(task, ())]
        hashes = tuple(POOLS[task].documents[p] for p in places)
        at = [own.documents.index(h) for h in hashes]
        kept[key] = DocumentScores(hashes, own.total[at], own.weight[at])
    return {k: v for k, v in kept.items() if v.documents}


def test_the_blocks_are_the_panel_and_texts_come_first() -> None:
    found = scheme()
    first, second = found.blocks()
    assert len(first.documents["math"]) == 12
    assert len(second.documents["math"]) == 18
    assert set(first.documents) == {"math", "italian", "text", "weights"}
    assert set(second.documents) == {"math", "italian"}
    assert (first | second).documents == found.panel.documents
    assert all(p % 2 == 0 for p in found.panel.documents["math"]), "positions are the scorer's"


def test_an_estimate_needs_no_more_than_its_blocks() -> None:
    found, scores = scheme(), model(7)
    whole = found.estimate(scores)
    assert found.estimate(only(scores, found.panel)) == whole
    first = found.blocks()[0]
    part = found.estimate(only(scores, first), 0.4)
    assert part["math"].documents == 12
    assert part["far"].value == pytest.approx(0.3)
    assert part["far"].stderr == 0
    assert part["text"] == whole["text"]
    with pytest.raises(FitnessError, match="was not scored"):
        found.estimate(only(scores, first))


def test_candidates_are_compared_by_the_panel_and_shown_by_the_estimator() -> None:
    found, scores = scheme(), model(7)
    estimate = found.estimate(scores)["math"]
    selection = found.selections["math"]
    own = sample(scores, MATH, POOLS["math"].documents, selection)
    assert estimate.ranked == pytest.approx(found.rulers["math/acc"].value(own))
    assert estimate.value != estimate.ranked
    plain = scheme(estimator="sample_mean").estimate(scores)["math"]
    assert plain.ranked == plain.value


def test_more_references_move_what_is_shown_and_nothing_that_is_compared() -> None:
    found, scores = scheme(), model(7)
    known = {**PARENTS, "trial_3": model(11), "trial_4": model(12)}
    again = found.refitted(known, 4)
    assert again.panel == found.panel
    before, after = found.estimate(scores)["math"], again.estimate(scores)["math"]
    assert before.ranked == after.ranked
    assert before.value != after.value


def test_the_scheme_depends_on_seed_and_references_alone() -> None:
    turned = dict(reversed(PARENTS.items()))
    assert build(OBJECTIVES, POOLS, turned, 4, plan()).panel == scheme().panel
    one = build(OBJECTIVES[:1], {"math": POOLS["math"]}, PARENTS, 4, plan())
    assert one.panel.documents["math"] == scheme().panel.documents["math"]


class TestDuel:
    """What racing compares."""

    def test_streams_are_positive_for_the_better_model_whatever_the_goal(self) -> None:
        found = scheme()
        good, bad = model(7, skill=2.0), with_text(model(8, skill=-2.0), 2.0)
        both = streams(found, good, bad, 0.4)
        assert len(both) == 3, "a watched objective decides nothing"
        assert all(sum(x.mean() for x in s.differences) > 0 for s in both)
        assert [len(s.differences) for s in both] == [1, 2, 1]
        assert [s.complete for s in both] == [False, False, True]

    def test_what_was_run_in_full_is_compared_as_it_is_ranked(self) -> None:
        # better in the mean of its texts' perplexities, worse in that of all words
        found, scores = scheme(), model(7)
        hashes = POOLS["text"].documents
        many, few = np.array([100.0, 1, 1, 1, 1, 1, 1]), np.array([2.1, 1, 1, 1, 1, 1, 1])
        mine = {**scores, "text/perplexity": DocumentScores(hashes, -many * few, many)}
        theirs = with_text(mine, 1.0)
        theirs["text/perplexity"] = DocumentScores(hashes, -many * 2.0, many)
        ranked = [found.estimate(s)["text"].ranked for s in (mine, theirs)]
        assert ranked[0] > ranked[1]
        assert streams(found, mine, theirs, 0.4)[2].differences[0] < 0

    @pytest.mark.parametrize("scale", [40.0, 0.5])
    def test_a_part_of_what_is_no_share_says_nothing(self, scale: float) -> None:
        objective = (Objective("math", "minimize", (MATH,)),)
        found = build(objective, {"math": POOLS["math"]}, PARENTS, 4, plan())
        scores = model(7)
        own = scores["math/acc"]
        weight = own.weight if scale > 1 else own.weight * scale
        long = {**scores, "math/acc": DocumentScores(own.documents, 40 * own.total, weight)}
        (early,) = streams(found, long, scores, 0.4)
        assert not early.complete
        assert len(early.differences[0]) == 0
        assert not is_beaten([[early]], Rule(looks=(0.4,)))
        assert not is_beaten([[early]], Rule("strict", looks=(0.4,)))


def with_text(scores: Scores, worse: float) -> dict[str, DocumentScores]:
    """The same model with that many times the loss on the text."""
    own = PARENTS["p0"]["text/perplexity"]
    return {
        **scores,
        "text/perplexity": DocumentScores(own.documents, worse * own.total, own.weight),
    }


@pytest.mark.parametrize(
    ("options", "known", "message"),
    [
        ({"n": 121}, 0, r"task 'math': 121 documents asked for, 120 available"),
        ({"estimator": "p_irt"}, 0, r"estimator 'p_irt' needs \d+ models .*has 4 \(4 of them base"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_is_scored(
    options: dict[str, Any], known: int, message: str
) -> None:
    with pytest.raises(FitnessError, match=message):
        check(OBJECTIVES, POOLS, plan(**options), 4, known)


def test_enough_models_of_other_runs_make_up_for_it() -> None:
    check(OBJECTIVES, POOLS, plan("p_irt"), 4, 40)


def test_a_metric_that_the_estimator_cannot_estimate_is_refused_at_once() -> None:
    words = Metric("math", "word_perplexity", "minimize", "exp_neg_mean")
    objectives = (Objective("words", "minimize", (words,)),)
    with pytest.raises(FitnessError, match="'p_irt': math/word_perplexity is no mean"):
        check(objectives, POOLS, plan("p_irt"), 4, 40)
    check(objectives, POOLS, plan("greg"), 4, 0)


class TestRanking:
    """How accuracies and probabilities are blended."""

    def test_with_all_documents_the_score_decides_alone(self) -> None:
        score = np.array([[1.0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0]])
        soft = np.array([[0.9, 0.2, 0.8, 0.1], [0.8, 0.6, 0.9, 0.2], [0.3, 0.1, 0.7, 0.1]])
        found = ruler(Setting(MATH, everything(4), References(("a", "b", "c"), 3, score, soft)))
        assert found.blend == 1.0

    def test_fewer_documents_lean_more_on_probabilities(self) -> None:
        found = [scheme(n=n, looks=(1.0,)).rulers["math/acc"].blend for n in (10, 30, 60, 120)]
        assert found == sorted(found)
        assert 0 < found[0] < found[1] < 1
        assert found[-1] == 1.0

    def test_without_probabilities_or_for_other_metrics_nothing_is_blended(self) -> None:
        bare = {n: {"math/acc": s["math/acc"]} for n, s in PARENTS.items()}
        one = build(OBJECTIVES[:1], {"math": POOLS["math"]}, bare, 4, plan())
        assert one.rulers["math/acc"] == Ruler(MATH)
        assert scheme().rulers["text/perplexity"].blend == 1.0


class TestResponses:
    """Scores joined and looked up by content."""

    def test_join_keeps_what_was_known_and_adds_the_rest(self) -> None:
        whole = model(3)
        found = scheme()
        first, second = (only(whole, b) for b in found.blocks())
        both = join(first, second)
        assert found.estimate(both) == found.estimate(whole)
        again = join(both, whole)
        assert len(again["math/acc"].documents) == N
        assert again["math/acc"].documents[:12] == first["math/acc"].documents

    def test_only_full_rows_are_references(self) -> None:
        part = only(model(5), scheme().panel)
        known = references({**PARENTS, "part": part}, 4, MATH, POOLS["math"].documents)
        assert known.names == ("p0", "p1", "p2", "p3")
        assert covers(PARENTS["p0"], MATH, POOLS["math"].documents)
        assert not covers(part, MATH, POOLS["math"].documents)


class TestPromotion:
    """More documents for the best."""

    def test_the_stages_are_nested_and_the_last_is_everything(self) -> None:
        extension = Extension.of(scheme())
        panels = [extension.panel(stage) for stage in STAGES]
        sizes = [len(p.documents["math"]) for p in panels]
        assert sizes == [30 + 22, 30 + 45, 120]
        for smaller, larger in pairwise(panels):
            assert (smaller | larger) == larger

    def test_at_the_last_stage_the_figures_are_exact(self) -> None:
        scores = model(9)
        exact = Extension.of(scheme()).estimate(scores, 1.0)
        assert exact["math"].value == pytest.approx(scores["math/acc"].total.mean())
        assert exact["math"].stderr == 0
        assert exact["math"].documents == N

    def test_before_that_they_are_unbiased_and_their_errors_cover(self) -> None:
        gaps, covered = [], []
        for seed in range(300):
            found = build(
                OBJECTIVES[:1], {"math": POOLS["math"]}, PARENTS, 4, Plan(*_parts(), (1.0,), seed)
            )
            scores = model(9)
            got = Extension.of(found).estimate(scores, 0.25)["math"]
            gaps.append(got.value - scores["math/acc"].total.mean())
            covered.append(got.interval[0] <= scores["math/acc"].total.mean() <= got.interval[1])
        gap = np.array(gaps)
        # six standard errors of the mean of 300 draws
        assert abs(gap.mean()) < 6 * gap.std() / np.sqrt(300)
        assert np.mean(covered) > 0.95 - 6 * np.sqrt(0.95 * 0.05 / 300)

    def test_what_is_clearly_worse_is_out_and_what_is_clearly_best_is_in(self) -> None:
        extension = Extension.of(scheme())
        good, bad = model(7, skill=3.0), with_text(model(8, skill=-3.0), 3.0)
        good = with_text(good, 1.0)
        assert extension.standings([good, bad], 0.5) == ["in", "out"]
        assert extension.standings([good, good], 1.0) == ["open", "open"]
        assert extension.standings([good], 0.25) == ["in"]
        assert extension.standings([], 0.25) == []

    def test_two_that_differ_on_few_documents_stay_open_until_all_were_run(self) -> None:
        found = build(OBJECTIVES[:1], {"math": POOLS["math"]}, PARENTS, 4, plan())
        one = model(7)
        own = one["math/acc"]
        on_panel = int(found.selections["math"].positions[0])
        total = own.total.copy()
        total[on_panel] = 1 - total[on_panel]
        other = {**one, "math/acc": DocumentScores(own.documents, total, own.weight)}
        extension = Extension.of(found)
        assert extension.standings([one, other], 0.25) == ["open", "open"]
        assert sorted(extension.standings([one, other], 1.0)) == ["in", "out"]

    def test_candidates_that_trade_objectives_are_both_in(self) -> None:
        found = build(
            (Objective("math", "maximize", (MATH,)), Objective("italian", "maximize", (ITALIAN,))),
            {t: POOLS[t] for t in ("math", "italian")},
            PARENTS,
            4,
            plan(),
        )
        one, other = model(7, skill=3.0), model(8, skill=-3.0)
        mixed = {**one, "italian/acc": other["italian/acc"]}
        rest = {**other, "italian/acc": one["italian/acc"]}
        assert Extension.of(found).standings([mixed, rest], 0.5) == ["in", "in"]


def _parts() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    found = plan()
    return found.selector, found.estimator
