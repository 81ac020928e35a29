"""Where base and experts are held: planned from headers before anything is loaded."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import psutil
import torch

from evoaim.errors import ConfigError
from search_spaces.errors import unknown

AUTO = "auto"
# In the order of preference. On the CPU the device is the host, and there is nothing to pin.
STRATEGIES = {
    "device": "base and experts stay in the device's memory",
    "pinned": "base and experts in pinned host memory, the next tensor copied ahead",
    "mapped": "base and experts read from their files at every use and let go",
}
WINDOW = 1 << 26  # bytes of mapped files that may stay in memory before they are let go
WORK = 1 << 27  # bytes of scratch: counting magnitudes, chunks of every thread
PER_ELEMENT = 8  # bytes of scratch an element of the largest tensor: a delta, or two outputs
PREPARED = 1 << 18  # bytes that are kept per tensor and expert: thresholds and sums
RESERVE = 1 << 30  # of an accelerator's memory: its context, and scoring's activations at least


class Measured(Protocol):
    """What the plan reads of a model: headers, no weights."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as stored."""


@dataclass(frozen=True)
class Demand:
    """What a merge holds, in bytes."""

    base: int
    experts: Mapping[str, int]
    live: int  # 0: nothing is scored, the merge is only written
    row: int  # the largest tensor with its counterparts in all models
    work: int  # preparing the largest tensor
    prepared: int  # what is kept from preparing all of them

    @classmethod
    def of(
        cls,
        base: Measured,
        experts: Mapping[str, Measured],
        live: torch.dtype | None,
        copies: float = 0.0,
    ) -> "Demand":
        """From headers alone.

        Args:
            base: the base model.
            experts: by short name.
            live: dtype of the live model; None: there is none.
            copies: of the base that the merge methods keep between candidates.
        """
        sizes = {key: prod(shape) for key, shape in base.shapes.items()}
        total, largest = sum(sizes.values()), max(sizes.values(), default=0)
        models = (base, *experts.values())
        return cls(
            base.n_bytes,
            {name: expert.n_bytes for name, expert in experts.items()},
            total * live.itemsize if live is not None else 0,
            sum(largest * m.n_bytes // max(1, total) for m in models),
            WORK + largest * PER_ELEMENT,
            PREPARED * len(sizes) * len(experts) + int(copies * base.n_bytes),
        )

    @property
    def models(self) -> int:
        """Base and experts together."""
        return self.base + sum(self.experts.values())


@dataclass(frozen=True)
class Machine:
    """What is free, in bytes; on the CPU both figures are the same memory."""

    device: torch.device
    device_free: int
    host_free: int

    @classmethod
    def here(cls, device: torch.device) -> "Machine":
        """This machine now."""
        host = min([psutil.virtual_memory().available, *_containers()])
        if device.type == "cuda":
            return cls(device, torch.cuda.mem_get_info(device)[0], host)
        return cls(device, host, host)


@dataclass(frozen=True)
class Placement:
    """A strategy that fits, and the figures it was chosen by."""

    strategy: str
    demand: Demand
    machine: Machine

    def lines(self) -> Iterator[str]:
        """The plan for a reader, one fact a line."""
        d, m = self.demand, self.machine
        yield f"{self.strategy} on {m.device}: {STRATEGIES[self.strategy]}"
        yield (
            f"base {size_text(d.base)}, experts {size_text(d.models - d.base)}, "
            f"live model {size_text(d.live) if d.live else 'none'}, "
            f"prepared statistics {size_text(d.prepared)}, work {size_text(d.work)}"
        )
        device, host = needs(self.strategy, d, m.device)
        if m.device.type == "cpu":
            yield f"needs {size_text(device)} of {size_text(m.device_free)} free"
        else:
            yield (
                f"needs {size_text(device)} of {size_text(m.device_free)} free on {m.device}, "
                f"{size_text(host)} of {size_text(m.host_free)} free on the host"
            )


def place(demand: Demand, machine: Machine, wanted: str = AUTO) -> Placement:
    """The strategy asked for, or the first one that fits.

    Raises:
        ConfigError: not a strategy, not one for this device, or it (with "auto": none) fits; the
            message has the figures.
    """
    if wanted not in (AUTO, *STRATEGIES):
        raise ConfigError(f"models.placement: {unknown('placement', wanted, [AUTO, *STRATEGIES])}")
    cpu = machine.device.type == "cpu"
    possible = [s for s in STRATEGIES if not (cpu and s == "pinned")]
    if wanted != AUTO and wanted not in possible:
        raise ConfigError(
            f"models.placement: '{wanted}' is for accelerators, the device here is "
            f"{machine.device}; one of {', '.join([AUTO, *possible])} expected"
        )
    short = {s: _short(s, demand, machine) for s in possible}
    for strategy in possible if wanted == AUTO else [wanted]:
        if not short[strategy]:
            return Placement(strategy, demand, machine)
    tried = "; ".join(f"{s} {short[s]}" for s in possible if wanted in (AUTO, s))
    fits = [s for s in possible if not short[s]]
    advice = (
        f"take models.placement: {fits[0]}"
        if fits
        else "take a smaller models.dtype (bfloat16), fewer experts, or another models.device"
    )
    raise ConfigError(
        f"models: base ({size_text(demand.base)}), {len(demand.experts)} experts "
        f"({size_text(demand.models - demand.base)}) and live model ({size_text(demand.live)}) "
        f"do not fit: {tried}; {advice}"
    )


def needs(strategy: str, demand: Demand, device: torch.device) -> tuple[int, int]:
    """Bytes needed on the device and on the host; on the CPU both are the same."""
    d = demand
    always = d.live + d.prepared + d.work
    # tensors in use are never let go: the next ones are read while these are merged
    window = min(d.models, max(WINDOW, d.row) + d.row)
    if device.type == "cpu":
        total = always + (d.models if strategy == "device" else window)
        return total, total
    held = {"device": d.models, "pinned": 2 * d.row, "mapped": d.row}[strategy]
    host = window + (d.models if strategy == "pinned" else 0)
    return always + held + RESERVE, max(host, d.live)  # the live model is built on the host


def size_text(n: float) -> str:
    """Bytes for a reader: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _short(strategy: str, demand: Demand, machine: Machine) -> str:
    """What is missing for a strategy; empty if it fits."""
    device, host = needs(strategy, demand, machine.device)
    checks = [(device, machine.device_free, str(machine.device))]
    if machine.device.type != "cpu":
        checks.append((host, machine.host_free, "the host"))
    return ", ".join(
        f"needs {size_text(need)} on {where} where {size_text(free)} are free"
        for need, free, where in checks
        if need > free
    )


def _containers() -> Iterator[int]:
    """Bytes that the control groups of this process leave it (containers, batch systems)."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, kind, path = line.split(":", 2)
            if kind in ("", "memory"):
                folder = Path("/sys/fs/cgroup", kind) / path.lstrip("/")
                for group in (folder, *folder.parents[:-3]):
                    yield from _left(group)


def _left(group: Path) -> Iterator[int]:
    """The limit less anonymous memory: the page cache can be reclaimed."""
    for limit in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
        with suppress(OSError, ValueError, KeyError):
            most = int((group / limit).read_text(encoding="ascii"))
            pairs = (group / "memory.stat").read_text(encoding="ascii").split()
            used = dict(zip(pairs[::2], pairs[1::2], strict=True))
            yield max(0, most - int(used["anon" if "anon" in used else "total_rss"]))
