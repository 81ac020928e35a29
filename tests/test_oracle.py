"""mergekit as an oracle: the same config gives the same weights, where it is deterministic."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evoaim.commands import merge_command

pytest.importorskip("mergekit", reason="needs the peers extra")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # mergekit's own
]


def spec(rng: random.Random, low: float, high: float) -> Any:
    """A random scalar, gradient or filter list."""

    def value() -> Any:
        if rng.random() < 0.5:
            return round(rng.uniform(low, high), 3)
        return [round(rng.uniform(low, high), 3) for _ in range(rng.choice([2, 3, 5]))]

    if rng.random() < 0.5:
        return value()
    names = rng.sample(["mlp", "self_attn", "layers.1", "norm"], 2)
    return [{"filter": n, "value": value()} for n in names] + [{"value": value()}]


def config(method: str, seed: int, family: dict[str, str]) -> dict[str, Any]:
    rng = random.Random(seed)
    experts = ["a"] if method == "slerp" else rng.sample(["a", "b", "c"], rng.choice([1, 2, 3]))
    own: dict[str, tuple[float, float]] = {} if method == "slerp" else {"weight": (0.1, 1.2)}
    shared: dict[str, Any] = {}
    if method == "slerp":
        shared["t"] = spec(rng, 0.0, 1.0)
    if method in ("ties", "dare_ties"):
        own["density"] = (0.1, 1.0) if method == "ties" else (1.0, 1.0)  # masks differ by design
    if method in ("task_arithmetic", "ties", "dare_ties"):
        shared["lambda"] = spec(rng, 0.3, 1.5)
    if method != "slerp" and rng.random() < 0.5:
        shared["normalize"] = rng.random() < 0.5
    data: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": family[e], "parameters": {n: spec(rng, *r) for n, r in own.items()}}
            for e in experts
        ],
        "parameters": shared,
        "dtype": "float32",
    }
    if method != "linear":
        data["base_model"] = family["base"]
    if rng.random() < 0.3 and method not in ("slerp", "linear"):
        data["models"].append({"model": family["base"]})
    return data


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
def test_equals_mergekit(method: str, seed: int, family: dict[str, str], tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    data = config(method, seed, family)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    run_merge(
        MergeConfiguration.model_validate(data),
        str(tmp_path / "theirs"),
        MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False),
    )
    merge_command(tmp_path / "config.yaml", tmp_path / "ours", "cpu", None)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = {
        k: v for f in (tmp_path / "theirs").glob("*.safetensors") for k, v in load_file(f).items()
    }
    assert set(ours) == set(theirs), json.dumps(data)
    for name, expected in theirs.items():
        # 1e-6 of the tensor's own scale: float32 sums in another order
        torch.testing.assert_close(
            ours[name], expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()), msg=str(data)
        )
