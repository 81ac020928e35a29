"""Variants of the importance: statistics, ways to [0, 1], packed experts, live and stored names."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evoaim.activations import STATISTICS
from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.importance import MEANS, NORMALIZATIONS, QUANTILE, Importance, calibrate
from evoaim.live import load_live
from search_spaces.parameters import AIM_PARAMETERS
from tests.architectures import save, tokens

CPU = torch.device("cpu")
ACTIVITIES = st.lists(st.floats(0, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=40)


class Two(nn.Module):
    """Two linear layers whose inputs can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(67, 6)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        assert not use_cache
        return self.second(self.first(self.table(input_ids)))


def test_declared_choices_are_what_there_is() -> None:
    assert tuple(NORMALIZATIONS) == AIM_PARAMETERS["normalization"].choices
    importance = calibrate(Two(), [tokens()])
    assert importance is not None
    assert importance.statistics == STATISTICS == AIM_PARAMETERS["statistic"].choices


def test_statistics_are_as_defined_and_scaled_to_one() -> None:
    torch.manual_seed(1)
    model = Two()
    measured = calibrate(model, [tokens()[:1], tokens()[1:, :7]])
    assert measured is not None
    ids = torch.cat([tokens()[:1].flatten(), tokens()[1:, :7].flatten()])
    with torch.no_grad():
        x = model.first(model.table(ids)).double()
    expected = {
        "mean_abs": x.abs().mean(0),
        "rms": x.square().mean(0).sqrt(),
        "max_abs": x.abs().amax(0),
        "std": x.std(0, correction=0),
    }
    for name, s in expected.items():
        factor = measured.factor("second.weight", 0.0, statistic=name)
        assert factor is not None
        torch.testing.assert_close(1 - factor, (s / s.max()).float(), rtol=1e-5, atol=1e-6)


@given(ACTIVITIES, st.sampled_from(sorted(NORMALIZATIONS)), st.floats(1e-3, 1e3))
def test_normalizations_are_monotone_into_the_unit_interval_and_free_of_scale(
    activities: list[float], name: str, scale: float
) -> None:
    s = torch.tensor(activities)
    found = NORMALIZATIONS[name](s)
    assert found.shape == s.shape
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((found[s == 0] == 0).all())
    assert bool((found.gather(0, s.argsort()).diff() >= 0).all())
    if float(s.max()) > 0:
        assert float(found[s.argmax()]) > 0
    torch.testing.assert_close(
        NORMALIZATIONS[name](s.double() * scale), NORMALIZATIONS[name](s.double())
    )
    both = NORMALIZATIONS[name](torch.stack([s, s.flip(0)]))  # every expert by itself
    assert torch.equal(both[0], found)


def test_normalizations_by_hand() -> None:
    s = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert NORMALIZATIONS["max"](s).tolist() == pytest.approx([0, 0.2, 0.4, 1])
    assert NORMALIZATIONS["rank"](s).tolist() == [0, 0.5, 0.75, 1]
    assert NORMALIZATIONS["mean"](s).tolist() == pytest.approx([0, 1 / (2 * MEANS), 1 / MEANS, 1])
    spiky = torch.cat([torch.ones(999), torch.tensor([1e6])])
    assert QUANTILE < 0.999
    assert NORMALIZATIONS["quantile"](spiky).tolist() == [1.0] * 1000
    rare = torch.cat([torch.zeros(999), torch.tensor([3.0])])
    assert NORMALIZATIONS["quantile"](rare).tolist() == [0.0] * 999 + [1.0]
    assert all(way(torch.zeros(4)).tolist() == [0.0] * 4 for way in NORMALIZATIONS.values())


def test_factors_broadcast_over_every_layout() -> None:
    shared, own = torch.rand(5), torch.rand(3, 5)
    importance = Importance({"shared": shared, "own": own})
    layouts = {("shared", -1): (7, 5), ("shared", -2): (5, 7), ("shared", 0): (5, 7)}
    layouts |= {("own", -1): (3, 7, 5), ("own", -2): (3, 5, 7)}
    for (key, axis), shape in layouts.items():
        factor = importance.factor(key, 0.0, 1.0, axis)
        assert factor is not None
        change = (1 - factor).expand(shape)
        vectors = {"shared": shared / shared.max(), "own": own / own.amax(-1, keepdim=True)}[key]
        inputs_last = change if axis == -1 else change.mT
        torch.testing.assert_close(inputs_last.select(-2, 4), vectors)
    packed = importance.factor("shared", 0.5, 1.0, -2)
    assert packed is not None
    assert (torch.ones(3, 5, 7) * packed).shape == (3, 5, 7)


def test_a_factor_asked_for_before_is_the_same_afterwards() -> None:
    torch.manual_seed(0)
    measured = calibrate(Two(), [tokens()])
    assert measured is not None
    asked = [
        (omega, gamma, -1, statistic, normalization)
        for statistic in STATISTICS
        for normalization in NORMALIZATIONS
        for gamma in (1.0, 0.5, 2.0)
        for omega in (0.0, 0.4)
    ]
    first = [measured.factor("first.weight", *a) for a in asked]
    for a, before in zip(asked, first, strict=True):
        fresh = Importance(measured.channels, {}, measured.variants).factor("first.weight", *a)
        again = measured.factor("first.weight", *a)
        assert before is not None
        assert again is not None
        assert fresh is not None
        assert torch.equal(before, again)
        assert torch.equal(before, fresh)
    assert len({tuple(f.tolist()) for f in first if f is not None}) == len(asked)


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gpt_oss"])
def test_importance_by_live_names_fits_the_checkpoint(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / name, name)
    checkpoint = Checkpoint.open(str(folder))
    blueprint = Blueprint.of(checkpoint)
    live = calibrate(load_live(checkpoint, torch.float32, CPU), [tokens()])
    stored = calibrate(str(folder), [tokens()])
    assert live is not None
    assert stored is not None
    assert set(stored.channels) <= set(checkpoint.shapes)
    for importance in (live.fitted(blueprint), stored.fitted(blueprint)):
        assert importance.channels.keys() == stored.channels.keys()
        for key, vector in stored.channels.items():
            assert torch.equal(importance.channels[key], vector)
    file = tmp_path / "i.safetensors"
    stored.save(file)
    read = Importance.load(file)
    assert all(torch.equal(read.channels[k], v) for k, v in stored.channels.items())
    moved = read.to(torch.device("meta"))
    assert all(v.is_meta for v in moved.channels.values())
    assert len({id(v) for v in moved.channels.values()}) == len(
        {id(v) for v in read.channels.values()}
    )


def test_importance_of_another_model_is_refused(tmp_path: Path) -> None:
    blueprint = Blueprint.of(Checkpoint.open(str(save(tmp_path, "llama"))))
    for key, n in (("model.norm.weight", 33), ("other.weight", 32)):
        with pytest.raises(ConfigError, match=rf"\('{key}' with {n} channels is no weight of"):
            Importance({key: torch.ones(n)}).fitted(blueprint)
