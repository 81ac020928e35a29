"""The distance to the base is that of a naive computation, and 0 for the base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evoaim import MergeEngine, Recipe
from evoaim.distance import DistanceToBase
from fitness.errors import FitnessError, ScoringError
from fitness.scorers import Scorer
from fitness.types import Panel, Split
from tests.architectures import save

PANEL = Panel({"weights": (0,)})
KEY = "weights/distance_to_base"
SPLITS: tuple[Split, Split] = ("search", "report")


def mixed(base: float, expert: float) -> Recipe:
    """base + expert * (expert - base), for base = 1; so `expert` scales the distance."""
    return Recipe.from_dict(
        {
            "merge_method": "linear",
            "parameters": {"normalize": False},
            "models": [
                {"model": "base", "parameters": {"weight": base}},
                {"model": "a", "parameters": {"weight": expert}},
            ],
        }
    )


def distance(engine: MergeEngine, scorer: Scorer, recipe: Recipe) -> float:
    with engine.materialize(recipe) as model:
        found = scorer.score(model, PANEL, "search")[KEY]
    assert found.documents == ("weights",)
    assert found.weight.tolist() == [1.0]
    return float(found.total[0])


def naive(base: Path, merged: Path, dtype: torch.dtype) -> float:
    """Of the stored tensors, in float64."""
    disk = [load_file(folder / "model.safetensors") for folder in (base, merged)]
    assert disk[0].keys() == disk[1].keys()
    x, y = (
        np.concatenate([d[k].to(dtype).double().numpy().ravel() for k in sorted(d)]) for d in disk
    )
    return float(np.linalg.norm(y - x) / np.linalg.norm(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mixtral", "gpt_oss", "phi3"])
def test_equals_a_naive_computation(tmp_path: Path, name: str, dtype: str) -> None:
    """Untied and tied heads, transposed layers, and experts that are packed on loading."""
    base, a = save(tmp_path / "base", name, 0), save(tmp_path / "a", name, 1)
    engine = MergeEngine.from_pretrained(str(base), {"a": str(a)}, device="cpu", dtype=dtype)
    scorer = DistanceToBase.of(engine)
    expected = naive(base, a, getattr(torch, dtype))
    assert distance(engine, scorer, mixed(0.0, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert distance(engine, scorer, mixed(1.0, 0.0)) == 0.0
    assert distance(engine, scorer, mixed(0.0, 1.0)) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def engine(family: dict[str, str]) -> MergeEngine:
    return MergeEngine.from_pretrained(family["base"], {n: family[n] for n in "abc"}, device="cpu")


def test_grows_in_proportion_to_what_is_added(engine: MergeEngine) -> None:
    scorer = DistanceToBase.of(engine)
    whole = distance(engine, scorer, mixed(0.0, 1.0))
    for share in (0.001, 0.25, 2.0):
        found = distance(engine, scorer, mixed(1.0 - share, share))
        assert found == pytest.approx(share * whole, rel=1e-3)


def test_both_splits_hold_the_same_one_document(engine: MergeEngine) -> None:
    scorer = DistanceToBase.of(engine)
    with engine.materialize(mixed(0.0, 1.0)) as model:
        one, other = (scorer.score(model, PANEL, split)[KEY] for split in SPLITS)
        assert one.documents == other.documents == scorer.documents("weights", "report")
        assert one.total.tolist() == other.total.tolist()
        assert scorer.score(model, Panel({}), "search") == {}
    assert scorer.sizes("search") == scorer.sizes("report") == {"weights": 1}
    metric = scorer.metric("weights")
    assert metric.key == KEY
    assert metric.goal == "minimize"
    assert metric.aggregate(0.25, 9.0).stderr == 0


def test_other_layers_and_broken_weights_are_the_candidates_fault(
    engine: MergeEngine, family: dict[str, str]
) -> None:
    scorer = DistanceToBase.of(engine)
    stacked: dict[str, Any] = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": family["a"], "layer_range": [0, 1]}]}] * 3,
    }
    with (
        engine.materialize(Recipe.from_dict(stacked)) as model,
        pytest.raises(ScoringError, match="stacks other layers"),
    ):
        scorer.score(model, PANEL, "search")
    with engine.materialize(mixed(1.0, 0.0)) as model:
        model.get_input_embeddings().weight[0, 0] = torch.inf
        with pytest.raises(ScoringError, match="not finite"):
            scorer.score(model, PANEL, "search")


def test_what_is_unknown_is_refused(engine: MergeEngine) -> None:
    scorer = DistanceToBase.of(engine)
    with pytest.raises(FitnessError, match="unknown task 'weight'; did you mean: weights"):
        scorer.leaves("weight")
    with pytest.raises(FitnessError, match="unknown metric 'distance'"):
        scorer.metric("weights", "distance")
    with pytest.raises(FitnessError, match="document 1 asked for"):
        scorer.score(engine.live, Panel({"weights": (1,)}), "search")
