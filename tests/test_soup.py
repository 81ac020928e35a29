"""Greedy soup: what goes in, in which order, and that its recipe is the running mean."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evoaim.engine import MergeEngine
from evoaim.errors import ConfigError
from evoaim.soup import averaged, greedy_soup
from search_spaces.recipe import Recipe


def toy(points: dict[str, float], target: float, asked: list[tuple[str, ...]]) -> object:
    """Models are numbers; the nearer the average is to the target, the better."""

    def score(recipe: Recipe) -> float:
        names = tuple(s.model for s in recipe.models)
        asked.append(names)
        return -abs(sum(points[n] for n in names) / len(names) - target)

    return score


def test_takes_what_improves_from_the_best_on() -> None:
    asked: list[tuple[str, ...]] = []
    points = {"far": 9.0, "left": 0.5, "right": 2.0}
    soup = greedy_soup(list(points), toy(points, 1.25, asked))  # type: ignore[arg-type]
    assert soup.members == ("left", "right")
    assert soup.score == 0.0
    assert list(soup.alone) == ["left", "right", "far"]
    assert asked == [
        *(("far",), ("left",), ("right",)),
        *(("left", "right"), ("left", "right", "far")),
    ]


def test_what_does_not_improve_stays_out() -> None:
    points = {"a": 1.0, "b": 1.0, "c": 3.0}
    soup = greedy_soup("abc", toy(points, 1.0, []))  # type: ignore[arg-type]
    assert (soup.members, soup.score) == (("a",), 0.0)


@pytest.mark.parametrize("models", [[], ["a", "a"]])
def test_refuses_no_models_and_repeated_ones(models: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least one model, each once"):
        greedy_soup(models, lambda _: 0.0)


def test_with_real_weights(family: dict[str, str]) -> None:
    engine = MergeEngine.from_pretrained(family["base"], {n: family[n] for n in "abc"}, "cpu")
    disk = {n: load_file(Path(family[n]) / "model.safetensors") for n in "abc"}
    name = "model.layers.1.mlp.up_proj.weight"
    target = 0.55 * disk["a"][name] + 0.45 * disk["c"][name]

    def score(recipe: Recipe) -> float:
        with engine.materialize(recipe) as model:
            return -float((model.get_parameter(name) - target).norm())

    soup = greedy_soup("abc", score)
    assert soup.members == ("a", "c")
    with engine.materialize(averaged("ac")) as model:
        for key, value in model.named_parameters():
            torch.testing.assert_close(value, (disk["a"][key] + disk["c"][key]) / 2)
