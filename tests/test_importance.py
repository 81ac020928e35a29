"""AIM importance: measured as defined, on the right axis, read back exactly; calibration text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from evoaim.calibration import importance_of, read_texts, token_blocks
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.importance import NORMALIZATIONS, Importance, calibrate
from evoaim.live import load_live, load_tokenizer
from search_spaces.parameters import AIM_PARAMETERS

GENERATOR = torch.Generator().manual_seed(7)
TOKENS = torch.randint(3, 67, (4, 16), generator=GENERATOR)
CPU = torch.device("cpu")


class Small(nn.Module):
    """A tied model whose every module input can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(67, 6)
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 9)
        self.dead = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 2)
        self.conv = nn.Conv1d(9, 9, 1)
        self.down = nn.Linear(9, 6)
        self.head = nn.Linear(6, 67, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        assert not use_cache
        assert not self.training
        x = self.embed(input_ids)
        hidden = torch.relu(self.up(self.norm(x)))
        hidden = self.conv(hidden.mT).mT
        y = self.down(hidden) + self.dead(torch.zeros_like(x)).sum()
        return self.head(y)


@pytest.fixture(scope="module")
def base(family: dict[str, str]) -> nn.Module:
    return load_live(family["base"], torch.float32, CPU)


@pytest.fixture(scope="module")
def measured(base: nn.Module) -> Importance:
    found = calibrate(base, [TOKENS[:3], TOKENS[3:]])
    assert found is not None
    return found


def test_importance_is_the_mean_absolute_input_scaled_to_one() -> None:
    torch.manual_seed(0)
    model = Small()
    found = calibrate(model, [TOKENS[:1], TOKENS[1:, :5]])
    assert found is not None
    ids = torch.cat([TOKENS[:1].flatten(), TOKENS[1:, :5].flatten()])
    with torch.no_grad():
        x = model.embed(ids)
        normed = model.norm(x)
        hidden = model.conv(torch.relu(model.up(normed)).T[None])[0].T
    means = {"norm": x, "up": normed, "down": hidden}
    assert set(found.channels) == {"norm.weight", "up.weight", "down.weight", "dead.weight"}
    for name, inputs in means.items():
        s = inputs.double().abs().mean(0)
        torch.testing.assert_close(found.channels[f"{name}.weight"], (s / s.max()).float())
    assert found.channels["dead.weight"].tolist() == [0.0] * 6
    assert found.origin["tokens"] == str(len(ids))
    assert model.training


def test_importance_of_a_llama(base: nn.Module, measured: Importance) -> None:
    weights = {n: p for n, p in base.named_parameters() if "embed" not in n}
    assert set(measured.channels) == set(weights)
    for name, channel in measured.channels.items():
        assert channel.shape == (weights[name].shape[-1],)
        assert (channel.dtype, float(channel.max())) == (torch.float32, 1.0)
        assert float(channel.min()) >= 0.0
    for group in (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("mlp.gate_proj", "mlp.up_proj"),
    ):
        first, *others = (measured.channels[f"model.layers.1.{m}.weight"] for m in group)
        assert all(torch.equal(first, other) for other in others)


def test_batches_do_not_matter(
    base: nn.Module, measured: Importance, family: dict[str, str]
) -> None:
    for other in (calibrate(base, TOKENS.split(1)), calibrate(family["base"], [TOKENS])):
        assert other is not None
        for name, channel in measured.channels.items():
            torch.testing.assert_close(other.channels[name], channel, rtol=1e-5, atol=1e-6)


def test_an_untied_head_is_measured(model_maker: Callable[..., Path], tmp_path: Path) -> None:
    folder = model_maker(tmp_path / "m", seed=3, tie_word_embeddings=False)
    found = calibrate(str(folder), [TOKENS])
    assert found is not None
    assert found.channels["lm_head.weight"].shape == (32,)
    assert "model.embed_tokens.weight" not in found.channels


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.floats(0.01, 100), st.lists(st.floats(0, 1, width=32), max_size=5))
def test_the_factor_lies_between_omega_and_one(
    omega: float, gamma: float, channel: list[float]
) -> None:
    importance = Importance({"w": torch.tensor([*channel, 0.0, 1.0])})
    assert importance.factor("other", omega, gamma, -1) is None
    factor = importance.factor("w", omega, gamma, -1)
    if omega == 1.0:
        assert factor is None
        return
    assert factor is not None
    assert factor[-2:].tolist() == pytest.approx([1.0, omega], abs=1e-6)
    assert float(factor.min()) >= omega - 1e-6
    assert float(factor.max()) <= 1.0
    column = importance.factor("w", omega, gamma, 0)
    assert column is not None
    assert torch.equal(column, factor[:, None])


INPUTS = ("self_attn.q", "self_attn.k", "mlp.up")


def test_a_file_of_version_1_is_read(measured: Importance, tmp_path: Path) -> None:
    file = tmp_path / "i.safetensors"
    metadata = {"format": "evoaim-importance-1", "statistic": "mean_abs", "tokens": "64"}
    save_file(dict(measured.channels), file, metadata=metadata)
    read = Importance.load(file)
    assert read.origin["tokens"] == "64"
    for name in measured.channels:
        for way in NORMALIZATIONS:
            ours, theirs = (i.factor(name, 0.3, 2.0, -1, "mean_abs", way) for i in (measured, read))
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"statistic: 'rms' was not measured, only mean_abs; run"):
        read.factor("model.norm.weight", 0.3, statistic="rms")


def test_saving_and_loading_changes_nothing(measured: Importance, tmp_path: Path) -> None:
    file = tmp_path / "new" / "i.safetensors"
    measured.save(file)
    read = Importance.load(file)
    assert read.origin == measured.origin
    assert read.channels.keys() == measured.channels.keys()
    assert all(torch.equal(v, read.channels[k]) for k, v in measured.channels.items())
    assert read.statistics == measured.statistics == tuple(AIM_PARAMETERS["statistic"].choices)
    for name, vectors in measured.variants.items():
        assert all(torch.equal(v, read.variants[name][k]) for k, v in vectors.items())
    q, k, up = (read.channels[f"model.layers.0.{m}_proj.weight"] for m in INPUTS)
    assert q is k
    assert q is not up


def test_files_that_are_refused(measured: Importance, tmp_path: Path) -> None:
    file = tmp_path / "i.safetensors"
    with pytest.raises(ConfigError, match=r"i.safetensors': no such file; `evoaim calibrate`"):
        Importance.load(file)
    save_file({"w": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"was not written by `evoaim calibrate`"):
        Importance.load(file)
    for bad in (-0.1, 1.1, float("nan")):
        Importance({"w": torch.tensor([0.5, bad])}).save(file)
        with pytest.raises(ConfigError, match=r"'w' has values outside \[0, 1\]"):
            Importance.load(file)
    measured.save(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"i.safetensors': cannot be read"):
        Importance.load(file)
    (tmp_path / "folder").mkdir()
    for unwritable in (file / "i.safetensors", tmp_path / "folder"):
        with pytest.raises(ConfigError, match=r"cannot be written"):
            measured.save(unwritable)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["folder", "i.safetensors"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = Small().train(training)
    calibrate(model, [TOKENS])
    assert (model.training, hooks(model)) == (training, 0)
    with pytest.raises(IndexError):
        calibrate(model, [TOKENS + 1000])
    assert (model.training, hooks(model)) == (training, 0)


def test_what_cannot_be_measured() -> None:
    model = Small()
    assert calibrate(model, None) is None
    with pytest.raises(ConfigError, match=r"calibration: no tokens"):
        calibrate(model, [])
    model.up.weight.data[0] = 1e38
    model.conv.weight.data.fill_(1e38)
    with pytest.raises(ConfigError, match=r"inputs of 'down.weight' are not finite in torch.float"):
        calibrate(model, [TOKENS])


def jsonl(*texts: Any) -> str:
    return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.jsonl", jsonl("x", "y z") + "\n\n" + jsonl("w"), ["x", "y z"]),
        ("a.jsonl", jsonl("x\u2028y\x85z", "w") + "not json", ["x\u2028y\x85z", "w"]),
        ("a.txt", "x y\r\n\r\nz\nw", ["x y", "z"]),
    ],
)
def test_texts_are_read(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_texts(tmp_path / name, 2) == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl("x"), r"calibration.documents: 2 asked, '.*a.jsonl' holds 1"),
        ("\n", r"holds no text"),
        ("x\ny\n", r"JSON lines with a field 'text' expected \(a .txt file is read line by line"),
        ("[1]\n[2]\n", r"JSON lines with a field 'text'"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_texts(tmp_path / "a.jsonl", 2)
    for missing, why in (("no.jsonl", "no such file"), (".", "cannot be read")):
        with pytest.raises(ConfigError, match=why):
            read_texts(tmp_path / missing, 2)


def test_blocks_run_across_documents(family: dict[str, str]) -> None:
    tokenizer = load_tokenizer(Checkpoint.open(family["base"]))
    texts = ["w0 w1 w2", "w3", "w4 w5 w6"]
    assert [b.tolist() for b in token_blocks(tokenizer, texts, 3)] == [[[3, 4, 5], [6, 7, 8]]]
    assert [b.tolist() for b in token_blocks(tokenizer, texts, 50)] == [[list(range(3, 10))]]
    assert token_blocks(tokenizer, [""], 3) == []


def test_importance_is_measured_once_per_base_and_text(
    family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOAIM_CACHE", str(tmp_path / "cache"))
    base = Checkpoint.open(family["base"])
    live = load_live(base, torch.float32, CPU)
    first = importance_of(base, live, [TOKENS])
    assert first.origin["base"] == base.content_hash
    (file,) = (tmp_path / "cache" / "importance").iterdir()
    Importance({"marked": torch.ones(1)}).save(file)
    assert set(importance_of(base, live, [TOKENS]).channels) == {"marked"}
    assert set(importance_of(base, live, [TOKENS[1:]]).channels) == set(first.channels)
    other = Checkpoint.open(family["a"])
    assert set(importance_of(other, live, [TOKENS]).channels) == set(first.channels)
    file.write_bytes(b"damaged")
    assert set(importance_of(base, live, [TOKENS]).channels) == set(first.channels)
    monkeypatch.setenv("EVOAIM_CACHE", str(file))
    assert set(importance_of(base, live, [TOKENS]).channels) == set(first.channels)
    with pytest.raises(ConfigError, match=r"block_size: the base has 64 positions, got .* of 80"):
        importance_of(base, live, [TOKENS.repeat(1, 5)])
