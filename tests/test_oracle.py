"""mergekit as an oracle: the same config gives the same weights, where it is deterministic."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoaim.engine import MergeEngine
from evoaim.registry import METHODS
from search_spaces.parameters import Parameter
from search_spaces.recipe import Recipe

pytest.importorskip("mergekit", reason="needs the peers extra")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # mergekit's own
]

Range = tuple[float, float]


@dataclass(frozen=True)
class Steering:
    """How random configs of one method stay where both programs mean the same.

    Args:
        ranges: of parameters, in place of the range that is searched.
        distinct: ranges where magnitudes may be equal, as they are in bfloat16: mergekit's sort
            leaves open which of them is kept.
        experts: the least number.
        fixed: parameters that keep a value.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    distinct: Mapping[str, Range] = field(default_factory=dict)
    experts: int = 1
    fixed: Mapping[str, Any] = field(default_factory=dict)


ALL = (1.0, 1.0)
SPARSE = Steering(distinct={"density": ALL})
RANDOM = Steering({"density": ALL})  # masks differ by design
STEERING = {
    "linear": Steering(),
    "passthrough": Steering(),
    "task_arithmetic": Steering(),
    "ties": SPARSE,
    "breadcrumbs": SPARSE,
    "breadcrumbs_ties": SPARSE,
    "dare_linear": RANDOM,
    "dare_ties": RANDOM,
    "della": RANDOM,
    "della_linear": RANDOM,
    "sce": Steering(distinct={"select_topk": ALL}),
    "ram": Steering({"epsilon": (1e-3, 2e-2)}),
    "ramplus_tl": Steering({"epsilon": (1e-3, 2e-2)}),
    "slerp": Steering(),
    "nuslerp": Steering(),
    "multislerp": Steering(experts=2),  # mergekit ignores the weight of a lone one
    "karcher": Steering({"max_iter": (0, 12)}),
    # the experts of this file agree with each other: mergekit does not clamp negative cosines
    "model_stock": Steering(experts=2),
    "nearswap": Steering({"t": (1e-3, 2e-2)}),
    "arcee_fusion": Steering(),
}


def test_every_method_of_mergekit_is_here() -> None:
    from mergekit.merge_methods import registered_methods

    assert set(STEERING) == {method.spec.name for method in registered_methods()}


@dataclass(frozen=True, eq=False)
class Zoo:
    """A base and three experts on disk, with the engine that holds them."""

    folders: Mapping[str, str]
    engine: MergeEngine
    dtype: torch.dtype


@pytest.fixture(scope="module", params=["float32-tied", "bfloat16-untied"])
def zoo(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_maker: Callable[..., Path],
) -> Zoo:
    """Experts with much in common, far enough from the base for spheres to be round."""
    precision, tied = request.param.split("-")
    dtype, root = getattr(torch, precision), tmp_path_factory.mktemp("oracle")
    base = model_maker(root / "base", 0, tie_word_embeddings=tied == "tied")
    weights = load_file(base / "model.safetensors")
    g = torch.Generator().manual_seed(1)

    def noise(t: torch.Tensor) -> torch.Tensor:
        return 0.01 * torch.randn(t.shape, generator=g)

    drift = {k: noise(t) for k, t in weights.items()}
    folders = {"base": base} | {n: model_maker(root / n, 0, like=base) for n in "abc"}
    for name, folder in folders.items():
        moved = (
            weights if name == "base" else {k: t + drift[k] + noise(t) for k, t in weights.items()}
        )
        saved = {k: t.to(dtype) for k, t in moved.items()}
        save_file(saved, folder / "model.safetensors", {"format": "pt"})
    paths = {n: str(p) for n, p in folders.items()}
    engine = MergeEngine.from_pretrained(paths["base"], {n: paths[n] for n in "abc"}, "cpu")
    return Zoo(paths, engine, dtype)


def spec(rng: random.Random, p: Parameter, bounds: Range) -> Any:
    """A random scalar, gradient or filter list of one parameter."""
    low, high = bounds

    def number() -> float:
        return (
            float(rng.randint(int(low), int(high))) if p.whole else round(rng.uniform(low, high), 4)
        )

    def value() -> Any:
        if p.switch:
            return rng.random() < 0.5
        if p.whole or rng.random() < 0.5:
            return number()
        return [number() for _ in range(rng.choice([2, 3, 5]))]

    if rng.random() < 0.5:
        return value()
    names = rng.sample(["mlp", "self_attn", "layers.1", "norm"], 2)
    return [{"filter": n, "value": value()} for n in names] + [{"value": value()}]


def config(method: str, seed: int, zoo: Zoo) -> dict[str, Any]:
    """A random config from the method's own declarations."""
    from mergekit.merge_methods import get

    rng, steering, ours = random.Random(f"{method} {seed}"), STEERING[method], METHODS[method]
    known = {p.name for p in get(method).spec.parameters}
    exact = {} if zoo.dtype == torch.float32 else steering.distinct
    own: dict[str, Range] = {}
    shared: dict[str, Any] = {}
    for name, p in ours.PARAMETERS.items():
        bounds = {"weight": (0.1, 1.5), **steering.ranges, **exact}.get(name, p.search)
        if name not in known or (bounds is None and not p.switch):
            continue
        if p.default is not None and rng.random() < 0.3 and name not in steering.ranges:
            continue
        if p.per_model:
            own[name] = bounds or (0.0, 1.0)
        else:
            shared[name] = spec(rng, p, bounds or (0.0, 1.0))
    names = ["a", "b", "c"]
    bases = {"delta": ["base"], "none": [None]}.get(ours.BASE, ["base", "c"])
    base = rng.choice([*bases, None] if ours.BASE in ("optional", "point") else bases)
    others = [n for n in (*names, *(["base"] if ours.BASE != "delta" else [])) if n != base]
    least = max(steering.experts, ours.EXPERTS[0])
    experts = rng.sample(others, rng.randint(least, min(ours.EXPERTS[1] or 3, 3)))
    data: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {
                "model": zoo.folders[e],
                "parameters": {n: spec(rng, ours.PARAMETERS[n], r) for n, r in own.items()},
            }
            for e in experts
        ],
        "parameters": shared,
        "dtype": "float32",
    }
    if base is not None:
        data["base_model"] = zoo.folders[base]
        if rng.random() < 0.3:
            data["models"].append({"model": zoo.folders[base]})
    return data


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("method", [m for m in STEERING if m in METHODS])
def test_equals_mergekit(method: str, seed: int, zoo: Zoo, tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    data = config(method, seed, zoo)
    run_merge(
        # in float64, where mergekit's own rounding is out of sight
        MergeConfiguration.model_validate(data | {"dtype": "float64"}),
        str(tmp_path),
        MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False),
    )
    theirs = {k: v for f in tmp_path.glob("*.safetensors") for k, v in load_file(f).items()}
    places = zoo.engine.merger.blueprint.places
    assert set(theirs) == set(places)
    with zoo.engine.materialize(Recipe.from_dict(data)) as live:
        parameters = dict(live.named_parameters())
        for name, expected in theirs.items():
            got = places[name].view(parameters[places[name].parameter]).double()
            # 1e-6 of the tensor's own scale: float32 inside, as a change of the base
            scale = max(
                float(expected.abs().max()), float(zoo.engine.base.tensor(name).abs().max())
            )
            torch.testing.assert_close(
                got,
                expected,
                rtol=1e-6,
                atol=1e-6 * scale,
                msg=lambda m, n=name: f"{n}: {m}\n{data}",
            )
