"""Laws over every architecture: all tensors are placed, importance is what its weights receive."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.coverage import coverage
from evoaim.engine import MergeEngine
from evoaim.export import Exported, export_model
from evoaim.importance import QUANTILE, Importance, calibrate
from evoaim.live import load_live, quiet
from search_spaces.anatomy import MODULE_TYPES
from search_spaces.recipe import Recipe
from tests.architectures import ARCHITECTURES, save, tokens

CPU = torch.device("cpu")
TOKENS = tokens()
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss")
EXPERTS = 4


@dataclass(frozen=True)
class Loaded:
    checkpoint: Checkpoint
    blueprint: Blueprint
    live: nn.Module
    importance: Importance

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.live.named_parameters())


FOLDERS = TemporaryDirectory()


@cache
def loaded(name: str, seed: int = 0) -> Loaded:
    folder = Path(FOLDERS.name) / f"{seed}" / name
    checkpoint = Checkpoint.open(str(save(folder, name, seed)))
    live = load_live(checkpoint, torch.float32, CPU)
    measured = calibrate(live, [TOKENS[:3], TOKENS[3:]])
    assert measured is not None
    blueprint = Blueprint.of(checkpoint)
    return Loaded(checkpoint, blueprint, live, measured.fitted(blueprint))


@pytest.fixture(params=ARCHITECTURES)
def it(request: pytest.FixtureRequest) -> Loaded:
    return loaded(request.param)


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(input_ids=TOKENS).logits
    return found


def test_every_tensor_is_placed_and_every_parameter_filled_once(it: Loaded) -> None:
    assert set(it.blueprint.places) | set(it.blueprint.copied) == set(it.checkpoint.shapes)
    assert not set(it.blueprint.places) & set(it.blueprint.copied)
    filled = {n: torch.zeros(p.shape) for n, p in it.parameters.items()}
    for key, place in it.blueprint.places.items():
        part = place.view(filled[place.parameter])
        assert tuple(part.shape) == it.checkpoint.shapes[key] == it.blueprint.shapes[key]
        part += 1
    assert all(bool((count == 1).all()) for count in filled.values())
    assert set(it.blueprint.keys) == set(filled)
    assert sorted(k for keys in it.blueprint.keys.values() for k in keys) == sorted(
        it.blueprint.places
    )


def test_writing_tensors_to_their_places_is_loading(it: Loaded) -> None:
    from transformers import AutoModelForCausalLM

    with quiet():
        fresh = AutoModelForCausalLM.from_config(it.live.config)
    parameters = dict(fresh.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(torch.nan)
        for key, place in it.blueprint.places.items():
            place.view(parameters[place.parameter]).copy_(it.checkpoint.tensor(key))
    assert all(torch.equal(p, parameters[n]) for n, p in it.parameters.items())
    assert torch.equal(logits(fresh), logits(it.live))


def test_what_is_tied_has_one_place(it: Loaded) -> None:
    every = dict(it.live.named_parameters(remove_duplicate=False))
    assert set(it.blueprint.tied) == set(every) - set(it.parameters)
    for name, owner in it.blueprint.tied.items():
        assert every[name] is every[owner]
        (key,) = it.blueprint.keys[owner]
        assert it.blueprint.kinds[key] == "tied"
        assert key not in it.importance.channels


def test_aim_covers_every_weight_or_says_why_not(it: Loaded) -> None:
    found = {c.key: c for c in coverage(it.blueprint, it.importance)}
    assert list(found) == list(it.blueprint.places)
    tables = {id(m.weight) for m in it.live.modules() if isinstance(m, nn.Embedding)}
    for key, place in it.blueprint.places.items():
        parameter = it.parameters[place.parameter]
        product = parameter.dim() > 1 and "bias" not in key and id(parameter) not in tables
        gain = place.parameter.endswith(("norm.weight", "norm1.weight"))
        assert found[key].covered or not (product or gain), found[key]
        assert found[key].covered == (key in it.importance.channels)
        assert found[key].why
    before = coverage(it.blueprint)
    assert [c.covered for c in before] == [c.covered for c in found.values()]


def test_every_matrix_of_a_block_has_one_module_type(it: Loaded) -> None:
    inside = [k for k, kind in it.blueprint.kinds.items() if kind in ("linear", "experts")]
    for key in inside:
        if any(f".{layer}." in key for layer in range(it.blueprint.n_layers)):
            types = [t for t, parts in MODULE_TYPES.items() if any(p in key for p in parts)]
            assert len(types) == 1, key


def test_the_factor_fits_the_tensor_and_varies_along_its_inputs(it: Loaded) -> None:
    for key in it.importance.channels:
        tensor, axis = it.checkpoint.tensor(key), it.blueprint.axes[key]
        factor = it.importance.factor(key, 0.25, 2.0, axis)
        assert factor is not None
        assert factor.dtype == torch.float32
        assert (tensor * factor).shape == tensor.shape
        assert factor.shape[axis] == tensor.shape[axis]
        assert 0.25 <= float(factor.min()) <= float(factor.max()) <= 1.0


def direct(live: nn.Module) -> dict[str, Tensor]:
    """Mean |input| of every linear module, measured with hooks of its own, scaled to one."""
    from transformers.pytorch_utils import Conv1D

    inputs: dict[str, list[Tensor]] = {}

    def keep(name: str) -> object:
        return lambda _m, x, _y: inputs.setdefault(name, []).append(x[0].flatten(0, -2))

    hooks = [
        module.register_forward_hook(keep(f"{path}.weight"))  # type: ignore[arg-type]
        for path, module in live.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    logits(live)
    for hook in hooks:
        hook.remove()
    means = {n: torch.cat(x).double().abs().mean(0) for n, x in inputs.items()}
    return {n: (s / s.max()).float() for n, s in means.items()}


def test_importance_is_what_a_direct_measurement_gives(it: Loaded) -> None:
    measured = direct(it.live)
    assert measured
    for name, expected in measured.items():
        if name not in it.blueprint.tied:
            (key,) = it.blueprint.keys[name]
            torch.testing.assert_close(it.importance.channels[key], expected)


def test_inputs_come_first_where_the_module_says_so(it: Loaded) -> None:
    from transformers.pytorch_utils import Conv1D

    for path, module in it.live.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and f"{path}.weight" in it.blueprint.keys:
            (key,) = it.blueprint.keys[f"{path}.weight"]
            n = module.in_features if isinstance(module, nn.Linear) else module.nx
            assert it.checkpoint.shapes[key][it.blueprint.axes[key]] == n


@pytest.mark.parametrize("name", MIXTURES)
def test_packed_experts_share_the_blocks_input_and_own_their_inner_one(name: str) -> None:
    it = loaded(name)
    path, experts = next(
        (n, m) for n, m in it.live.named_modules() if hasattr(m, "down_proj") and "expert" in n
    )
    seen: list[tuple[Tensor, ...]] = []
    hook = experts.register_forward_hook(lambda _m, x, _y: seen.append(x))
    logits(it.live)
    hook.remove()
    ((states, routed, _),) = seen
    shared = states.double().abs().mean(0)
    (first, *_), downs = (
        list(it.blueprint.keys[f"{path}.{leaf}"]) for leaf in ("gate_up_proj", "down_proj")
    )
    torch.testing.assert_close(it.importance.channels[first], (shared / shared.max()).float())
    for expert in range(EXPERTS):
        vector = it.importance.channels[downs[expert % len(downs)]]
        vector = vector[expert] if vector.dim() == 2 else vector
        x = states[(routed == expert).any(-1)]
        weight = experts.gate_up_proj[expert]
        up = x @ weight if experts.is_transposed else x @ weight.T
        if experts.has_bias:
            up = up + experts.gate_up_proj_bias[expert]
        inner = experts._apply_gate(up).double().abs().mean(0)
        torch.testing.assert_close(vector, (inner / inner.max()).float())


def test_an_expert_without_tokens_keeps_its_merge() -> None:
    it = loaded("qwen3_moe")
    measured = calibrate(it.live, [TOKENS[:1, :1]])  # one token reaches two of four experts
    assert measured is not None
    measured = measured.fitted(it.blueprint)
    found = {c.key: c for c in coverage(it.blueprint, measured)}
    experts = "model.layers.1.mlp.experts.{}.{}_proj.weight"
    idle = [e for e in range(EXPERTS) if not found[experts.format(e, "down")].covered]
    assert len(idle) == EXPERTS - 2
    for expert in idle:
        down = experts.format(expert, "down")
        assert found[down].why == "no calibration token was routed to this expert"
        factor = measured.factor(down, 0.0)
        assert factor is not None
        assert bool((factor == 1.0).all())
        gate = experts.format(expert, "gate")
        assert found[gate].covered
        assert torch.equal(measured.channels[gate], measured.channels[experts.format(0, "up")])


@cache
def family(name: str) -> tuple[Mapping[str, Loaded], MergeEngine]:
    """Experts of an architecture, and the engine that merges them."""
    base, experts = loaded(name), {"a": loaded(name, 1), "b": loaded(name, 2)}
    folders = {n: e.checkpoint.name for n, e in experts.items()}
    return experts, MergeEngine.from_pretrained(
        base.checkpoint.name, folders, device="cpu", importance=base.importance
    )


RECIPE = Recipe.from_dict(
    {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": 0.3}},
            {"model": "b", "parameters": {"weight": 0.5}},
        ],
        "aim": {"omega": 0.3, "gamma": 0.5, "statistic": "rms", "normalization": "quantile"},
    }
)


def test_a_merge_with_aim_is_what_every_tensor_by_itself_gives(it: Loaded) -> None:
    experts, engine = family(it.checkpoint.folder.name)
    with engine.materialize(RECIPE) as model:
        merged = {n: p.detach().clone() for n, p in model.named_parameters()}
    for key, place in it.blueprint.places.items():
        x0, a, b = (m.checkpoint.tensor(key) for m in (it, *experts.values()))
        update = 0.3 * (a - x0) + 0.5 * (b - x0)
        if key in it.importance.channels:
            s = it.importance.variants["rms"][key]
            top = s.quantile(QUANTILE, dim=-1, keepdim=True)
            shape = [1] * x0.dim()
            shape[it.blueprint.axes[key]] = -1
            if s.dim() == 2:
                shape[0] = len(s)
            update = update * (1 - 0.7 * (s / top).clamp(max=1).sqrt().reshape(shape))
        found = place.view(merged[place.parameter])
        torch.testing.assert_close(found, x0 + update, rtol=1e-5, atol=1e-6)


def test_an_export_says_what_the_live_model_said(it: Loaded, tmp_path: Path) -> None:
    _, engine = family(it.checkpoint.folder.name)
    with engine.materialize(RECIPE) as model:
        expected = logits(model)
    out = export_model(engine.merger, Exported(RECIPE, {}), tmp_path / "out", "float32")
    exported = Checkpoint.open(str(out))
    assert set(exported.shapes) == set(it.checkpoint.shapes)
    assert torch.equal(logits(load_live(exported, torch.float32, CPU)), expected)
