"""Importances find the genes that an objective was planted to depend on, and nothing from noise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from html_page import Page
from synthetic_run import Plan, make_run

from evoaim.gene_importance import FEWEST, MOST, gene_importances
from evoaim.ledger import Trial
from evoaim.report import write_report
from evoaim.results import Results
from fitness.types import Estimate, Objective
from search_spaces.genes import Genome

UP, DOWN = Objective("up", "maximize", ()), Objective("down", "minimize", ())


def planted(n: int, up: Callable[[Genome], float], down: Callable[[Genome], float]) -> list[Trial]:
    """Trials over numbers, a whole number, a choice and a gene that depends on it."""
    rng, trials = np.random.default_rng(0), []
    for i in range(n):
        genome: dict[str, float | int | str] = {"method": ("ties", "slerp")[int(rng.integers(2))]}
        genome |= {name: float(rng.random()) for name in ("w", "x", "y", "z")}
        genome |= {"k": int(rng.integers(1, 4)), "fixed": 1.0}
        if genome["method"] == "slerp":
            genome["t"] = float(rng.random())
        estimates = {"up": Estimate(up(genome), 0.0), "down": Estimate(down(genome), 0.0)}
        trials.append(Trial(i, genome, "done", estimates, 1.0))
    return trials


def test_what_an_objective_depends_on_comes_first_and_shares_make_one() -> None:
    trials = planted(
        300, lambda g: 3 * float(g["w"]) + float(g["x"]), lambda g: (g["y"] - 0.5) ** 2
    )  # type: ignore[operator]
    up, down = gene_importances([UP, DOWN], trials)
    assert list(up.shares)[:2] == ["w", "x"]
    assert next(iter(down.shares)) == "y"
    for found in (up, down):
        assert sum(found.shares.values()) == 1.0 or abs(sum(found.shares.values()) - 1) < 1e-9
        assert "fixed" not in found.shares, "a gene that never varies cannot matter"
        assert set(found.shares) == {"method", "k", "t", *"wxyz"}
        assert found.trials == 300
    assert gene_importances([UP, DOWN], trials) == (up, down)


def test_choices_and_conditional_genes_are_found() -> None:
    by_method = planted(200, lambda g: float(g["method"] == "ties"), lambda g: float(g["k"]))
    up, down = gene_importances([UP, DOWN], by_method)
    assert next(iter(up.shares)) == "method"
    assert next(iter(down.shares)) == "k"
    by_t = planted(400, lambda g: float(g.get("t", 0.0)), lambda g: 0.0)
    assert set(list(gene_importances([UP], by_t)[0].shares)[:2]) == {"method", "t"}


def test_failed_trials_do_not_count_and_few_say_nothing() -> None:
    trials = planted(FEWEST, lambda g: float(g["w"]), lambda g: 0.0)
    failed = [Trial(FEWEST + i, trials[0].genome, "failed", {}, 1.0, "why") for i in range(9)]
    (found,) = gene_importances([UP], [*trials, *failed])
    assert found.trials == FEWEST
    assert gene_importances([UP], [*trials[1:], *failed]) == ()
    assert gene_importances([UP], []) == ()


def test_a_long_study_is_thinned_evenly() -> None:
    (found,) = gene_importances([UP], planted(5 * MOST, lambda g: float(g["z"]), lambda g: 0.0))
    assert found.trials == MOST
    assert next(iter(found.shares)) == "z"


def test_the_report_lists_the_first_genes_of_every_objective(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long", Plan(trials=40))
    results = Results.read(run)
    prose = Page(write_report(run)).prose
    for found in gene_importances(results.objectives, results.trials):
        head = f"{found.objective} gene importance"
        assert head in prose
        listed = prose.split(head)[1].split("more genes")[0]
        for gene, share in list(found.shares.items())[:8]:
            assert f"{gene} {share:.2f}" in " ".join(listed.split())
    assert "because the best switch it off" in prose
    short = Page(write_report(make_run(tmp_path / "short", Plan(trials=12)))).prose
    assert f"Not said of fewer than {FEWEST} finished candidates" in short
