"""Objectives: resolved from names, combined over tasks, and one sign."""

import math
import subprocess
import sys

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.harness import Harness
from fitness.objectives import ObjectiveSpec, contradictions, estimate_objectives, resolve
from fitness.types import DocumentScores, Estimate, Metric, Objective


def test_goal_and_metric_default_to_what_lm_eval_says(harness: Harness) -> None:
    accuracy = resolve(ObjectiveSpec("a", ("toy_choice", "toy_greedy")), harness)
    assert accuracy.goal == "maximize"
    assert [m.key for m in accuracy.metrics] == ["toy_choice/acc", "toy_greedy/acc"]
    perplexity = resolve(ObjectiveSpec("p", ("toy_rolling",)), harness)
    assert (perplexity.goal, perplexity.metrics[0].name) == ("minimize", "word_perplexity")
    named = resolve(ObjectiveSpec("n", ("toy_generate",), "exact_match,second"), harness)
    assert named.metrics[0].name == "exact_match,second"


def test_a_goal_against_lm_evals_is_kept_and_said(harness: Harness) -> None:
    against = resolve(ObjectiveSpec("worst", ("toy_choice",), goal="minimize"), harness)
    assert against.goal == "minimize"
    plain = resolve(ObjectiveSpec("plain", ("toy_choice",), goal="maximize"), harness)
    (sentence,) = contradictions([against, plain])
    assert "'worst' is set to minimize acc, which lm-eval would maximize" in sentence


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ObjectiveSpec("o", ()), "objective 'o': at least one task expected"),
        (ObjectiveSpec("o", ("toy_choice",) * 2), "task 'toy_choice' counts twice"),
        (ObjectiveSpec("o", ("toy_choise",)), "unknown task 'toy_choise'; did you mean"),
        (ObjectiveSpec("o", ("toy_choice",), "accc"), "unknown metric 'accc'; did you mean: acc"),
        (
            ObjectiveSpec("o", ("toy_choice", "toy_rolling")),
            r"different kinds .*toy_choice/acc \(maximize\), toy_rolling/word_perplexity \(minim",
        ),
    ],
)
def test_what_cannot_be_resolved(harness: Harness, spec: ObjectiveSpec, message: str) -> None:
    with pytest.raises(FitnessError, match=message):
        resolve(spec, harness)


A, B = Metric("a", "acc", "maximize"), Metric("b", "acc", "maximize")


def test_an_objective_is_the_unweighted_mean_over_tasks() -> None:
    both = Objective("both", "maximize", (A, B))
    combined = both.combine({"a/acc": Estimate(0.2, 0.03), "b/acc": Estimate(0.6, 0.04)})
    assert combined.value == pytest.approx(0.4)
    assert combined.stderr == pytest.approx(0.025)  # sqrt(0.03^2 + 0.04^2) / 2


def test_the_sign_flips_for_what_is_maximized() -> None:
    assert Objective("up", "maximize", (A,)).loss(0.3) == -0.3
    assert Objective("down", "minimize", (A,)).loss(0.3) == 0.3


def test_a_hopeless_perplexity_stays_finite() -> None:
    metric = Metric("t", "perplexity", "minimize", "exp_neg_mean")
    assert math.isfinite(metric.aggregate(-1e9, 1.0).value)


def test_scores_become_one_estimate_per_objective() -> None:
    def of(values: list[float]) -> DocumentScores:
        return DocumentScores(("x",) * len(values), np.array(values), np.ones(len(values)))

    scores = {"a/acc": of([1, 0, 1, 0]), "b/acc": of([1, 1, 1, 0])}
    objectives = [Objective("a", "maximize", (A,)), Objective("both", "maximize", (A, B))]
    got = estimate_objectives(scores, objectives)
    assert {n: e.value for n, e in got.items()} == {"a": 0.5, "both": 0.625}
    with pytest.raises(FitnessError, match=r"no scores for b/acc: .*scored: a/acc"):
        estimate_objectives({"a/acc": scores["a/acc"]}, objectives)


def test_the_package_is_light_until_a_harness_is_asked_for() -> None:
    code = (
        "import sys, fitness\n"
        "assert 'numpy' not in sys.modules\n"
        "[getattr(fitness, name) for name in fitness.__all__ if name != 'Harness']\n"
        "import fitness.estimators.sample_mean\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
