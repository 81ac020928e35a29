"""The engine: a recipe in the live model equals a naive merge, and leaves no trace of the last."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evoaim import Importance, MergeEngine, Recipe, calibrate
from evoaim.errors import CandidateError, ConfigError
from search_spaces.errors import SpaceError

BATCH = [torch.arange(60).view(3, 20)]


@pytest.fixture(scope="module")
def engine(family: dict[str, str]) -> MergeEngine:
    experts = {n: family[n] for n in "abc"}
    return MergeEngine.from_pretrained(
        family["base"], experts, device="cpu", importance=calibrate(family["base"], BATCH)
    )


def recipe(**changes: Any) -> Recipe:
    data = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": n, "parameters": {"weight": 0.1 + i}} for i, n in enumerate("abc")],
    }
    return Recipe.from_dict(data | changes)


def weights(engine: MergeEngine, of: Recipe) -> dict[str, torch.Tensor]:
    with engine.materialize(of) as model:
        return {n: p.clone() for n, p in model.named_parameters()}


def on_disk(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_equals_a_naive_merge_with_aim(engine: MergeEngine, family: dict[str, str]) -> None:
    got = weights(engine, recipe(aim={"omega": 0.3, "gamma": 0.5}))
    disk = {n: on_disk(family[n]) for n in family}
    assert engine.importance is not None
    for name, merged in got.items():
        x0 = disk["base"][name]
        update = sum((0.1 + i) * (disk[n][name] - x0) for i, n in enumerate("abc"))
        importance = engine.importance.channels.get(name)
        if importance is not None:
            update = update * (1 - importance.sqrt() * 0.7)
        torch.testing.assert_close(merged, x0 + update, rtol=1e-6, atol=1e-6)
    assert "model.embed_tokens.weight" not in engine.importance.channels


def test_every_parameter_is_merged_and_tied_ones_once(engine: MergeEngine) -> None:
    places = engine.merger.blueprint.places.values()
    assert {p.parameter for p in places} == {n for n, _ in engine.live.named_parameters()}
    with engine.materialize(recipe()) as model:
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_the_second_recipe_leaves_no_trace_of_the_first(engine: MergeEngine) -> None:
    first = weights(engine, recipe())
    weights(engine, recipe(merge_method="ties", parameters={"density": 0.2}))
    again = weights(engine, recipe())
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_omega_one_is_no_aim_and_omega_zero_freezes_the_most_active_channel(
    engine: MergeEngine, family: dict[str, str]
) -> None:
    plain = weights(engine, recipe())
    assert all(
        torch.equal(w, plain[n]) for n, w in weights(engine, recipe(aim={"omega": 1.0})).items()
    )
    frozen = weights(engine, recipe(aim={"omega": 0.0}))
    base = on_disk(family["base"])
    assert engine.importance is not None
    for name, importance in engine.importance.channels.items():
        top = int(importance.argmax())
        torch.testing.assert_close(frozen[name][..., top], base[name][..., top])


def test_gradients_and_filters_reach_the_right_tensors(
    engine: MergeEngine, family: dict[str, str]
) -> None:
    spec = [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.5}]
    got = weights(engine, recipe(models=[{"model": "a", "parameters": {"weight": spec}}]))
    base, a = on_disk(family["base"]), on_disk(family["a"])
    for name, merged in got.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        w = layer / 2 if "mlp" in name else 0.5
        torch.testing.assert_close(merged, base[name] + w * (a[name] - base[name]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_one_rounding_to_the_live_dtype(family: dict[str, str], dtype: str) -> None:
    experts = {n: family[n] for n in "abc"}
    exact = weights(MergeEngine.from_pretrained(family["base"], experts, "cpu"), recipe())
    engine = MergeEngine.from_pretrained(family["base"], experts, "cpu", dtype)
    rounded = weights(engine, recipe())
    for name, merged in rounded.items():
        assert torch.equal(merged, exact[name].to(merged.dtype))


def test_untied_and_sharded_models(tmp_path: Path, model_maker: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM

    base = model_maker(tmp_path / "base", 0, tie_word_embeddings=False)
    expert = model_maker(tmp_path / "expert", 1, like=base)
    model = AutoModelForCausalLM.from_pretrained(expert)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    one = MergeEngine.from_pretrained(str(base), {"a": str(expert)}, "cpu")
    many = MergeEngine.from_pretrained(str(base), {"a": str(tmp_path / "sharded")}, "cpu")
    r = recipe(models=[{"model": "a", "parameters": {"weight": 0.3}}])
    a, b = weights(one, r), weights(many, r)
    assert "lm_head.weight" in a
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_names_of_models(engine: MergeEngine, family: dict[str, str]) -> None:
    by_path = recipe(
        base_model=family["base"],
        models=[{"model": family["a"], "parameters": {"weight": 0.5}}],
    )
    by_name = recipe(models=[{"model": "a", "parameters": {"weight": 0.5}}])
    a, b = weights(engine, by_path), weights(engine, by_name)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_slerp_between_experts_relaxes_to_the_base(
    engine: MergeEngine, family: dict[str, str]
) -> None:
    r = recipe(
        merge_method="slerp",
        base_model="a",
        models=["a", "b"],
        parameters={"t": 0.0},
        aim={"omega": 0.0, "base_model": "base"},
    )
    got, a, base = weights(engine, r), on_disk(family["a"]), on_disk(family["base"])
    assert engine.importance is not None
    for name, merged in got.items():
        i = engine.importance.channels.get(name, torch.zeros(1))
        expected = base[name] + (a[name] - base[name]) * (1 - i)
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_method": "tise"}, "unknown merge method 'tise'; did you mean 'ties'"),
        ({"base_model": None}, "needs a base_model"),
        ({"base_model": "a"}, "is one of the experts here"),
        ({"models": ["zzz"]}, "unknown model 'zzz'"),
        ({"models": ["base"]}, "at least one model besides the base"),
        ({"models": ["a"]}, "parameter 'weight' is required"),
        ({"parameters": {"wieght": 1}}, "unknown parameter 'wieght'; did you mean 'weight'"),
        ({"parameters": {"lambda": True}}, "'lambda': a number expected"),
        (
            {"merge_method": "ties", "parameters": {"density": 1.5}},
            r"merge method 'ties': parameter 'density': must lie in \[0, 1\], got 1.5",
        ),
        ({"merge_method": "slerp", "parameters": {"t": 0.5}}, "takes at most 1 model"),
        ({"aim": {"omega": 0.5, "base_model": "a"}}, "AIM relaxes to the base"),
        ({"aim": {"omega": 0.5, "importance": "none.safetensors"}}, "no such file"),
    ],
)
def test_wrong_recipes(engine: MergeEngine, changes: dict[str, Any], message: str) -> None:
    with (
        pytest.raises((ConfigError, SpaceError), match=message),
        engine.materialize(recipe(**changes)),
    ):
        pass


def test_names_that_stand_for_two_models(family: dict[str, str]) -> None:
    engine = MergeEngine.from_pretrained(
        family["base"], {"a": family["a"], family["a"]: family["b"]}, "cpu"
    )
    with (
        pytest.raises(ConfigError, match="stands for two models"),
        engine.materialize(recipe(models=[{"model": "a", "parameters": {"weight": 1}}])),
    ):
        pass
    both = [{"model": n, "parameters": {"weight": 0.5}} for n in ("a", family["a"])]
    engine = MergeEngine.from_pretrained(family["base"], {"a": family["a"]}, "cpu")
    with (
        pytest.raises(ConfigError, match="listed twice, under different names"),
        engine.materialize(recipe(models=both)),
    ):
        pass


def test_an_expert_in_a_folder_named_base(
    family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").symlink_to(family["b"])
    (tmp_path / "a").symlink_to(family["a"])
    monkeypatch.chdir(tmp_path)
    engine = MergeEngine.from_pretrained("a", {"base": "base"}, "cpu")
    half = [{"model": n, "parameters": {"weight": 0.5}} for n in ("a", "base")]
    got = weights(engine, recipe(merge_method="linear", base_model=None, models=half))
    a, b = on_disk(family["a"]), on_disk(family["b"])
    for name, merged in got.items():
        torch.testing.assert_close(merged, (a[name] + b[name]) / 2)


def test_importance_of_another_base(family: dict[str, str], tmp_path: Path) -> None:
    other = calibrate(family["a"], BATCH)
    assert other is not None
    Importance(other.channels, {"base": "0" * 64}).save(tmp_path / "i.safetensors")
    engine = MergeEngine.from_pretrained(family["base"], {"a": family["a"]}, "cpu")
    with (
        pytest.raises(ConfigError, match="measured on another base"),
        engine.materialize(
            recipe(
                models=[{"model": "a", "parameters": {"weight": 1}}],
                aim={"omega": 0.5, "importance": str(tmp_path / "i.safetensors")},
            )
        ),
    ):
        pass


def test_aim_without_importance(family: dict[str, str]) -> None:
    engine = MergeEngine.from_pretrained(family["base"], {n: family[n] for n in "abc"}, "cpu")
    with (
        pytest.raises(ConfigError, match="no importance was measured"),
        engine.materialize(recipe(aim={"omega": 0.5})),
    ):
        pass
    weights(engine, recipe(aim={"omega": 1.0}))  # off: needs none


def test_non_finite_merges_are_failed_candidates(engine: MergeEngine) -> None:
    with (
        pytest.raises(CandidateError, match="not finite"),
        engine.materialize(
            recipe(
                models=[{"model": "a", "parameters": {"weight": 1e30}}], parameters={"lambda": 1e30}
            )
        ),
    ):
        pass
    with (
        pytest.raises(CandidateError, match="sum to zero"),
        engine.materialize(
            recipe(
                merge_method="linear",
                models=[
                    {"model": "a", "parameters": {"weight": 1}},
                    {"model": "b", "parameters": {"weight": -1}},
                ],
            )
        ),
    ):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties"])
def test_gpu_equals_cpu_within_one_rounding(family: dict[str, str], method: str) -> None:
    experts = {n: family[n] for n in "abc"}
    engines = [MergeEngine.from_pretrained(family["base"], experts, d) for d in ("cpu", "cuda")]
    cpu, gpu = (weights(e, recipe(merge_method=method)) for e in engines)
    for name in cpu:
        torch.testing.assert_close(gpu[name].cpu(), cpu[name], rtol=2e-7, atol=1e-8)
