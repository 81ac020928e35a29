"""Warm starts: genes go by name into other spaces, and a search begins with earlier fronts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_spaces import space_of

from evoaim import Experiment, run_search
from evoaim.errors import ConfigError
from evoaim.ledger import Trial
from evoaim.results import Entry, Results
from evoaim.run_dir import RunDir
from evoaim.warm_start import BEST, _best, translated
from fitness.types import Estimate, Objective
from search_spaces.build import Layout
from search_spaces.genes import Genome, canonical

TA: dict[str, Any] = {
    "method": "task_arithmetic",
    "genes": {"weight": {"per": ["expert", "group", "module"]}, "omega": {}},
}
FINE = Layout(2, ("attn",))


def test_genes_of_the_same_name_keep_their_values() -> None:
    space = space_of(TA, FINE)
    genome = canonical(space.genes, {g.name: g.decode(0.3) for g in space.genes})
    assert translated(genome, space) == genome


def test_finer_genes_take_the_value_of_coarser_ones() -> None:
    space = space_of(TA, FINE)
    cells = ("g0.attn", "g1.attn", "rest")
    coarse = {"weight.a": 0.3, "weight.b": 0.9, "omega": 0.5}
    expected = {f"weight.{e}.{c}": coarse[f"weight.{e}"] for e in "ab" for c in cells}
    assert translated(coarse, space) == {**expected, "omega": 0.5}
    by_group = {"weight.a.g0": 0.1, "weight.a.g1": 0.2, "weight.a.rest": 0.7, "weight.b": 1.1}
    found = translated(by_group, space)
    assert found is not None
    assert [found[f"weight.a.{c}"] for c in cells] == [0.1, 0.2, 0.7]
    only_rest = translated({"weight.a.rest": 0.7}, space)
    assert only_rest is not None
    assert [only_rest[f"weight.a.{c}"] for c in cells] == [0.7] * 3


def test_values_are_clipped_and_what_is_unknown_is_as_in_the_first_seed() -> None:
    space = space_of({**TA, "genes": {"weight": {"per": ["expert"]}, "omega": {}}}, Layout())
    found = translated({"weight.a": 7.0, "elsewhere": 1.0}, space)
    assert found == {"weight.a": 1.5, "weight.b": 0.0, "omega": 1.0}
    assert translated({"weight.c": 0.5, "elsewhere": 1.0}, space) is None
    assert translated({"weight.a": "much"}, space) is None


def test_choices_are_taken_where_they_are_offered() -> None:
    space = space_of("mixed_aim", Layout(), 3)
    slerp = translated({"method": "slerp", "pair": "b+c", "t": 0.25, "omega": 0.5}, space)
    assert slerp == {"method": "slerp", "pair": "b+c", "t": 0.25, "omega": 0.5}
    other = translated({"method": "karcher", "weight.a": 0.25}, space)
    assert other is not None
    assert other["method"] == "task_arithmetic", "as in the first seed"
    assert other["weight.a"] == 0.25


def experiment(tiny: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.from_dict({**tiny, **changes})


@pytest.fixture(scope="module")
def earlier(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier") / "run"
    run_search(experiment(tiny, optimizer={"kind": "random"}, seed=5), folder)
    return folder


def genomes(folder: Path) -> list[Genome]:
    return [dict(t.genome) for t in Results.read(RunDir(folder)).trials]


def test_a_warm_search_asks_the_earlier_front_right_after_the_seeds(
    tiny: dict[str, Any], earlier: Path, tmp_path: Path
) -> None:
    cold = experiment(tiny, budget={"candidates": 30})
    run_search(cold, tmp_path / "cold")
    warm = experiment(tiny, budget={"candidates": 30}, warm_start=[str(earlier)])
    run_search(warm, tmp_path / "warm")
    asked, without = genomes(tmp_path / "warm"), genomes(tmp_path / "cold")
    n = json.loads((tmp_path / "warm" / "manifest.json").read_text())["seeds"]
    assert asked[:n] == without[:n]
    front = [dict(e.genes) for e in Results.read(RunDir(earlier)).front]
    fresh = [g for g in front if g not in asked[:n]]
    assert fresh
    handed = asked[n : n + BEST]
    assert all(g in handed for g in fresh)
    shutil.move(earlier, tmp_path / "moved")  # the run has what it began with
    try:
        cut = tmp_path / "cut"
        shutil.copytree(tmp_path / "warm", cut)
        again = experiment(tiny, budget={"candidates": 34}, warm_start=[str(earlier)])
        run_search(again, cut)
    finally:
        shutil.move(tmp_path / "moved", earlier)
    assert genomes(cut)[:30] == asked
    assert len(genomes(cut)) == 34


def test_runs_that_have_nothing_to_offer_are_refused(
    tiny: dict[str, Any], earlier: Path, tmp_path: Path
) -> None:
    block = {"method": "slerp", "genes": {"t": {}}}
    other = experiment(tiny, search_space=block, warm_start=[str(earlier)])
    with pytest.raises(ConfigError, match=r"warm_start: the run .* has no gene of this search \("):
        run_search(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    missing = experiment(tiny, warm_start=[str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="nowhere"):
        run_search(missing, tmp_path / "missing")


def test_layers_and_modules_come_before_the_rest() -> None:
    space = space_of(TA, FINE)
    by_module = {"weight.a.attn": 0.9, "weight.a.rest": 0.1}
    assert cells(translated(by_module, space)) == [0.9, 0.9, 0.1]
    two = {"weight.a.g0": 0.25, "weight.a.g1": 0.75, "weight.a.rest": 0.5}
    four = space_of({**TA, "genes": {"weight": {"per": ["expert", "group"]}}}, Layout(3))
    found = translated(two, four)
    assert found is not None
    assert [found[f"weight.a.g{k}"] for k in range(3)] == [0.25, 0.25, 0.75]


def test_coarser_genes_take_the_mean_of_finer_ones() -> None:
    fine = {f"weight.a.g{k}.attn": v for k, v in enumerate((0.25, 0.5, 0.75, 1.0))}
    fine["weight.a.rest"] = 0.125
    assert cells(translated(fine, space_of(TA, FINE))) == [0.375, 0.875, 0.125]
    coarse = space_of({**TA, "genes": {"weight": {"per": ["expert"]}}}, Layout())
    found = translated(fine, coarse)
    assert found is not None
    assert found["weight.a"] == 0.625


def cells(found: Genome | None) -> list[object]:
    assert found is not None
    return [found[f"weight.a.{c}"] for c in ("g0.attn", "g1.attn", "rest")]


def test_the_best_go_first() -> None:
    class Earlier:
        objectives = (Objective("x", "minimize", ()), Objective("y", "minimize", ()))
        front = ()
        trials = tuple(
            Trial(n, {"n": n}, "done", {k: Estimate(v, 0.0) for k, v in zip("xy", p, strict=True)})
            for n, p in enumerate([(4, 4), (3, 3), (0, 2), (1, 1), (2, 0)])
        )

    assert [g["n"] for g in _best(Earlier)] == [2, 4, 3, 1, 0]  # type: ignore[arg-type]
    known = {"x": Estimate(0.0, 0.0), "y": Estimate(0.0, 0.0)}
    Earlier.front = (Entry("trial 0", 0, {"n": 0}, {}, {}, None, known),)  # type: ignore[assignment]
    assert [g["n"] for g in _best(Earlier)] == [0, 2, 4, 3, 1]  # type: ignore[arg-type]
