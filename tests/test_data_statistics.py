"""Statistics on text: measured as defined, written and read exactly, found when they are needed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from evoaim import Experiment, run_search
from evoaim.blueprint import Blueprint
from evoaim.calibration import statistics_of
from evoaim.checkpoint import Checkpoint
from evoaim.cli import main
from evoaim.data_statistics import KINDS, DataStatistics, read_kinds, write
from evoaim.errors import ConfigError
from evoaim.live import load_live
from evoaim.measurement import measure
from evoaim.run_dir import RunDir
from search_spaces.recipe import Recipe
from tests import architectures

CPU = torch.device("cpu")
ROWS = torch.randint(3, 67, (3, 12), generator=torch.Generator().manual_seed(7))
BLOCKS = [ROWS[:2], ROWS[2:]]


class Known:
    """A checkpoint, its live model, and what was measured of it."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(str(folder))
        self.blueprint = Blueprint.of(self.checkpoint)
        self.live: Any = load_live(self.checkpoint, torch.float32, CPU)
        self.parameters = dict(self.live.named_parameters())
        self.found = measure(self.live, self.blueprint, BLOCKS, tuple(KINDS))


@pytest.fixture(scope="module", params=["llama", "gpt2", "phi3", "qwen3_moe"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(architectures.save(tmp_path_factory.mktemp("model") / "m", request.param))


def gradients(live: nn.Module) -> list[dict[str, Tensor]]:
    """Of every block's mean loss, by live parameter, as transformers computes it."""
    found = []
    live.requires_grad_(True)
    for row in ROWS:
        live(input_ids=row[None], labels=row[None]).loss.backward()
        found.append(
            {
                n: torch.zeros(p.shape) if p.grad is None else p.grad.clone()
                for n, p in live.named_parameters()
            }
        )
        live.zero_grad(set_to_none=True)
    live.requires_grad_(False)
    return found


def test_fisher_and_gradient_are_means_over_blocks(known: Known) -> None:
    each = gradients(known.live)
    assert set(known.found["fisher"]) == set(known.found["gradient"]) == set(known.blueprint.places)
    for key, place in known.blueprint.places.items():
        g = torch.stack([place.view(by_name[place.parameter]) for by_name in each])
        for kind, mean in (("fisher", g.square().mean(0)), ("gradient", g.abs().mean(0))):
            got = known.found[kind][key]
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got.float(), mean, rtol=0.01, atol=1e-4 * float(mean.max()))


def test_gram_matrices_are_of_the_inputs(known: Known) -> None:
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for path, module in known.live.named_modules():
        if f"{path}.weight" in known.parameters:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, x, name=f"{path}.weight": seen.setdefault(name, []).append(x[0])
                )
            )
    for row in ROWS:
        known.live(input_ids=row[None])
    for hook in hooks:
        hook.remove()
    linear = {k for k, kind in known.blueprint.kinds.items() if kind == "linear"}
    assert set(known.found["gram"]) == linear
    for key in linear:
        x = torch.cat(
            [t.reshape(-1, t.shape[-1]) for t in seen[known.blueprint.places[key].parameter]]
        )
        got = known.found["gram"][key]
        assert got.shape == (known.blueprint.shapes[key][known.blueprint.axes[key]],) * 2
        torch.testing.assert_close(got, x.T @ x / ROWS.numel(), rtol=1e-4, atol=1e-5)


def test_weights_that_read_the_same_input_share_its_matrix(known: Known) -> None:
    grams = known.found["gram"]
    q = [k for k in grams if "0.self_attn.q_proj" in k]
    for key in q:
        assert grams[key] is grams[key.replace("q_proj", "k_proj")]
        assert grams[key] is grams[key.replace("q_proj", "v_proj")]
        assert grams[key] is not grams[key.replace("q_proj", "o_proj")]
        assert grams[key] is not grams[key.replace("layers.0", "layers.1")]


def test_likelihoods_are_of_the_tokens(known: Known) -> None:
    logits = known.live(input_ids=ROWS).logits.log_softmax(-1)
    expected = logits[:, :-1].gather(-1, ROWS[:, 1:, None]).flatten().detach()
    for key in known.blueprint.places:
        torch.testing.assert_close(known.found["likelihood"][key], expected, rtol=1e-4, atol=1e-4)


def test_sensitivity_is_a_number_a_layer_of_norm_one(known: Known) -> None:
    by_layer: dict[str, float] = {}
    for key, value in known.found["sensitivity"].items():
        layer = next(part for part in key.split(".") if part.isdecimal())
        assert by_layer.setdefault(layer, float(value)) == float(value) > 0
    assert sum(v * v for v in by_layer.values()) == pytest.approx(1.0)
    assert len(by_layer) == known.blueprint.n_layers


def test_measuring_leaves_the_model_as_it_was(known: Known) -> None:
    known.live.train()
    before = {n: p.clone() for n, p in known.parameters.items()}
    measure(known.live, known.blueprint, BLOCKS, ("fisher", "gram"))
    assert known.live.training
    known.live.eval()
    for name, parameter in known.parameters.items():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert not any(m._forward_pre_hooks for m in known.live.modules())


def test_very_wide_layers_keep_the_diagonal(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoaim.measurement.WIDE", 8)
    narrow = measure(known.live, known.blueprint, BLOCKS, ("gram",))["gram"]
    for key, gram in narrow.items():
        torch.testing.assert_close(gram, known.found["gram"][key].diagonal(), rtol=1e-4, atol=1e-6)


def test_files_say_what_was_measured(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "s.safetensors"
    write(path, known.found, {"model": known.checkpoint.content_hash, "tokens": "36"})
    read = DataStatistics.open(path)
    assert read.kinds == tuple(KINDS)
    for kind, by_key in known.found.items():
        for key, tensor in by_key.items():
            found = read.tensor(kind, key)
            assert found is not None
            assert torch.equal(found, tensor)
    assert read.tensor("gram", "no.such.weight") is None
    read.check(known.checkpoint.content_hash, "m")
    with pytest.raises(ConfigError, match=r"measured on another model than 'n'; run `evoaim cal"):
        read.check("0" * 64, "n")
    stored = {id(t): t.nbytes for by_key in known.found.values() for t in by_key.values()}
    header = 300 * sum(map(len, known.found.values()))
    assert path.stat().st_size < sum(stored.values()) + header


def test_what_cannot_be_measured_is_refused(known: Known, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two tokens"):
        measure(known.live, known.blueprint, [ROWS[:, :1]], ("gram",))
    half = load_live(known.checkpoint, torch.float16, CPU)
    with pytest.raises(ConfigError, match="underflow in float16"):
        measure(half, known.blueprint, BLOCKS, ("fisher",))
    with pytest.raises(ConfigError, match=r"unknown kind 'fischer'; did you mean 'fisher'"):
        read_kinds("gram,fischer")
    with pytest.raises(ConfigError, match="no such file"):
        DataStatistics.open(tmp_path / "none.safetensors")
    other = known.checkpoint.folder / "model.safetensors"
    with pytest.raises(ConfigError, match="was not written by"):
        DataStatistics.open(other)


def test_the_cache_answers_for_the_same_model_text_and_kinds(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOAIM_CACHE", str(tmp_path))
    arguments = (known.checkpoint, known.live, known.blueprint)
    first = statistics_of(*arguments, BLOCKS, ("fisher",))
    written = first.path.stat().st_mtime_ns
    assert statistics_of(*arguments, BLOCKS, ("fisher",)).path == first.path
    assert first.path.stat().st_mtime_ns == written
    assert statistics_of(*arguments, BLOCKS, ("gram",)).path != first.path
    assert statistics_of(*arguments, BLOCKS[:1], ("fisher",)).path != first.path
    first.path.write_bytes(b"damaged")
    assert statistics_of(*arguments, BLOCKS, ("fisher",)).kinds == ("fisher",)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["evoaim", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_recipe_names_the_files_that_calibrate_wrote(
    family: dict[str, str],
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tiny["calibration"]["data"]
    size = ("--data", text, "--documents", "20", "--block-size", "16")
    for name in "ab":
        out = tmp_path / f"{name}.safetensors"
        assert call(
            monkeypatch, "calibrate", family[name], *size, "--out", out,
            "--statistics", "gram,fisher",
        ) == 0  # fmt: skip
        assert "fisher, gram, " in capsys.readouterr().out
    recipe = {
        "merge_method": "fisher",
        "base_model": family["base"],
        "models": [{"model": family["a"]}, {"model": family["b"]}],
        "statistics": {family["a"]: "a.safetensors", family["b"]: "b.safetensors"},
    }
    path = tmp_path / "recipe.yaml"

    def merge(changes: dict[str, Any], out: str) -> int:
        path.write_text(yaml.safe_dump(recipe | changes))
        return call(monkeypatch, "merge", path, tmp_path / out, "--device", "cpu")

    assert merge({}, "fisher") == 0
    assert merge({"merge_method": "regmean"}, "regmean") == 0
    key = "model.layers.0.self_attn.q_proj.weight"
    merged, *models = (
        Checkpoint.open(str(f)).tensor(key).double()
        for f in (tmp_path / "fisher", family["a"], family["b"])
    )
    low, high = torch.minimum(*models), torch.maximum(*models)
    assert ((merged >= low - 1e-6) & (merged <= high + 1e-6)).all()
    assert (merged - sum(models) / 2).abs().max() > 1e-3
    capsys.readouterr()
    assert merge({"statistics": {}}, "none") == 2
    assert "needs the statistic 'fisher' of" in capsys.readouterr().err
    assert merge({"merge_method": "led"}, "led") == 2
    assert "--statistics gradient" in capsys.readouterr().err
    swapped = {family["a"]: "b.safetensors", family["b"]: "a.safetensors"}
    assert merge({"statistics": swapped}, "swapped") == 2
    assert "were measured on another model" in capsys.readouterr().err
    assert merge({"statistics": {"c": "a.safetensors"}}, "unknown") == 2
    assert "unknown model 'c'" in capsys.readouterr().err
    assert merge({"statistics": ["a.safetensors"]}, "list") == 2
    assert "'MODEL: FILE' lines expected" in capsys.readouterr().err


@pytest.fixture(scope="module")
def searched(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search over methods that need statistics."""
    folder = tmp_path_factory.mktemp("runs") / "informed"
    space = {"method": ["fisher", "regmean", "led", "sens"], "genes": {"lambda": {}}}
    changes = {"search_space": space, "budget": {"candidates": 6}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOAIM_CACHE", str(folder.parent / "cache"))
        run_search(Experiment.from_dict(tiny | changes), folder)
    return folder


def test_a_search_measures_what_its_methods_need(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(searched)
    kinds = {p.stem: DataStatistics.open(p).kinds for p in run.statistics.iterdir()}
    assert kinds == {"base": ("gradient",)} | dict.fromkeys("abc", tuple(KINDS))
    recipes = {n: Recipe.from_yaml(run.recipe(n)) for n in range(6)}
    methods = {r.merge_method for r in recipes.values()}
    assert methods == {"fisher", "regmean", "led", "sens"}
    for number, recipe in recipes.items():
        assert len(recipe.statistics) == (4 if recipe.merge_method == "led" else 3)
        assert all(Path(file).is_file() for file in recipe.statistics.values()), number
    for method in sorted(methods):
        number = next(n for n, r in recipes.items() if r.merge_method == method)
        assert call(monkeypatch, "merge", run.recipe(number), tmp_path / method) == 0
        assert call(
            monkeypatch, "export", searched, tmp_path / f"{method}-trial", "--trial", str(number)
        ) == 0  # fmt: skip
        a, b = (Checkpoint.open(str(tmp_path / f)) for f in (method, f"{method}-trial"))
        assert all(torch.equal(a.tensor(k).float(), b.tensor(k).float()) for k in a.shapes)


def test_a_search_without_text_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    changes = {"search_space": {"method": "led", "genes": {"weight": None}}, "calibration": None}
    with pytest.raises(ConfigError, match=r"calibration: the merge method 'led' needs statistics"):
        run_search(Experiment.from_dict(tiny | changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
