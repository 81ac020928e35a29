"""The memory plan: made from headers, refuses with figures; every store gives the same tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError
from evoaim.placement import (
    AUTO,
    RESERVE,
    STRATEGIES,
    Demand,
    Machine,
    _left,
    needs,
    place,
    size_text,
)
from evoaim.store import Mapped, Pinned, Resident, Store, open_store

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 1 << 30
SMALL = Demand(
    base=2 * GIB, experts={"a": 2 * GIB, "b": GIB}, live=4 * GIB, row=GIB, work=1, prepared=1
)

sizes = st.integers(0, 1 << 45)
demands = st.builds(
    Demand,
    sizes,
    st.dictionaries(st.text(max_size=3), sizes, min_size=1),
    sizes,
    sizes,
    sizes,
    sizes,
)
machines = st.builds(Machine, st.sampled_from([CPU, GPU]), sizes, sizes).map(
    lambda m: Machine(m.device, m.host_free, m.host_free) if m.device == CPU else m
)


def fits(strategy: str, demand: Demand, machine: Machine) -> bool:
    device, host = needs(strategy, demand, machine.device)
    return device <= machine.device_free and host <= machine.host_free


@given(demands, machines, st.sampled_from([AUTO, "device", "mapped"]))
def test_what_is_planned_fits_and_what_is_refused_does_not(
    demand: Demand, machine: Machine, wanted: str
) -> None:
    possible = [s for s in STRATEGIES if machine.device == GPU or s != "pinned"]
    allowed = possible if wanted == AUTO else [wanted]
    fitting = [s for s in allowed if fits(s, demand, machine)]
    if fitting:
        assert place(demand, machine, wanted).strategy == fitting[0]
        return
    with pytest.raises(ConfigError, match="do not fit") as refusal:
        place(demand, machine, wanted)
    figures = {size_text(machine.device_free), size_text(machine.host_free)}
    assert any(f"where {f} are free" in str(refusal.value) for f in figures)


def test_less_memory_takes_the_next_strategy() -> None:
    def planned(device_free: int, host_free: int) -> str:
        return place(SMALL, Machine(GPU, device_free, host_free)).strategy

    assert planned(11 * GIB, 8 * GIB) == "device"
    assert planned(9 * GIB, 8 * GIB) == "pinned"
    assert planned(9 * GIB, 5 * GIB) == "mapped"
    with pytest.raises(ConfigError, match=r"device needs 10\.0 GiB on cuda:0 where 6\.0 GiB are"):
        planned(6 * GIB, 64 * GIB)
    assert place(SMALL, Machine(CPU, 10 * GIB, 10 * GIB)).strategy == "device"
    assert place(SMALL, Machine(CPU, 7 * GIB, 7 * GIB)).strategy == "mapped"


def test_an_explicit_placement() -> None:
    roomy, tight = (Machine(CPU, n * GIB, n * GIB) for n in (64, 7))
    for strategy in ("device", "mapped"):
        assert place(SMALL, roomy, strategy).strategy == strategy
    with pytest.raises(ConfigError, match=r"do not fit: device needs .*models\.placement: mapped"):
        place(SMALL, tight, "device")
    with pytest.raises(ConfigError, match="'pinned' is for accelerators, the device here is cpu"):
        place(SMALL, roomy, "pinned")
    with pytest.raises(ConfigError, match="unknown placement 'maped'; did you mean 'mapped'"):
        place(SMALL, roomy, "maped")


def test_the_plan_names_every_figure() -> None:
    text = "\n".join(place(SMALL, Machine(GPU, 64 * GIB, 32 * GIB)).lines())
    for figure in ("device on cuda:0", "base 2.0 GiB", "experts 3.0 GiB", "live model 4.0"):
        assert figure in text
    assert "needs 10.0 GiB of 64.0 GiB free on cuda:0, 4.0 GiB of 32.0 GiB free on the host" in text
    assert RESERVE == GIB


def test_demand_is_what_the_headers_say(family: dict[str, str]) -> None:
    base, a = Checkpoint.open(family["base"]), Checkpoint.open(family["a"])
    n = sum(base.tensor(k).numel() for k in base.shapes)
    demand = Demand.of(base, {"a": a, "b": a}, torch.bfloat16)
    assert (demand.base, demand.experts, demand.live) == (4 * n, {"a": 4 * n, "b": 4 * n}, 2 * n)
    largest = max(base.tensor(k).nbytes for k in base.shapes)
    assert demand.row == 3 * largest
    assert Demand.of(base, {"a": a}, None).live == 0
    assert Demand.of(base, {"a": a, "b": a}, None, 1.5).prepared == demand.prepared + 6 * n


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert list(_left(tmp_path)) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 30\nfile 50\n")
    assert list(_left(tmp_path)) == []
    (tmp_path / "memory.max").write_text("100\n")
    assert list(_left(tmp_path)) == [70]  # the page cache can be reclaimed
    assert Machine.here(CPU).host_free > 0


Models = Mapping[str, Checkpoint]


@pytest.fixture
def models(family: dict[str, str]) -> Models:
    return {n: Checkpoint.open(family[n]) for n in ("base", "a", "b")}


def same(store: Store, models: Models, passes: int) -> None:
    """A store gives what the files hold, pass after pass, for all models and for some."""
    for step in range(passes):
        for key in models["base"].shapes:
            for name in list(models)[: 1 + step % len(models)]:
                for read in (store.tensor, store.host):
                    assert torch.equal(read(name, key).cpu(), models[name].tensor(key)), key


@pytest.mark.parametrize("strategy", ["device", "mapped"])
def test_every_store_gives_the_same_tensors(
    models: Models, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evoaim.store.WINDOW", 10_000)
    plan = place(Demand.of(models["base"], {"a": models["a"]}, None), Machine.here(CPU), strategy)
    store = open_store(plan, models, list(models["base"].shapes))
    assert isinstance(store, Mapped if strategy == "mapped" else Resident)
    same(store, models, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "make",
    [
        lambda models: Resident(Mapped(models, GPU, 10_000).host, GPU),
        lambda models: Mapped(models, GPU, 10_000),
        lambda models: Pinned(models, GPU, list(models["base"].shapes)),
    ],
)
def test_every_store_gives_the_same_tensors_on_a_gpu(
    models: Models, make: Callable[..., Store]
) -> None:
    same(make(models), models, 5)
