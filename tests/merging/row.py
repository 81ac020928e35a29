"""What the law suite over merge methods knows of one method, and how it calls it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evoaim.kernel import BASE, stream
from evoaim.methods import Inputs
from evoaim.registry import METHODS
from evoaim.statistics import TensorStatistics
from evoaim.whole import Whole
from search_spaces.parameters import Parameter, Setting

NAMES = ("a", "b", "c")
LEVELS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """One method's row.

    Args:
        reference: (base (*s), expert tensors, settings) -> merged tensor, all float64: the paper's
            formulas in plain torch.
        experts: how many experts the laws give it.
        rtol, atol: agreement with the reference, in float32.
        unordered: the experts' order does not matter.
        variants: settings under which the reference is compared, each on top of all levels.
        equal_base: experts equal to the base give the base (not so without normalisation).
        alone: a lone expert at the identity settings comes out unchanged.
        threads: what the number of threads may change: last bits, where libraries do the algebra.
    """

    reference: Callable[[Tensor, list[Tensor], Inputs], Tensor]
    experts: int = 3
    rtol: float = 2e-5
    atol: float = 2e-6
    unordered: bool = True
    variants: tuple[dict[str, Setting], ...] = ({},)
    equal_base: dict[str, Setting] | None = None
    alone: bool = True
    threads: float = 0.0


def tensors(shape: tuple[int, ...], seed: int, delta: float = 0.1) -> dict[str, Tensor]:
    """Base and three experts, float32."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=g, dtype=torch.float64).float()
    noise = [torch.randn(shape, generator=g, dtype=torch.float64).float() for _ in NAMES]
    return {BASE: base} | {n: base + delta * d for n, d in zip(NAMES, noise, strict=True)}


def inputs(
    method: str, row: Row, level: float, fixed: dict[str, Setting] | None = None, seed: int = 3
) -> Inputs:
    """Settings of a method: `level` in [0, 1] of every search range, else the default."""
    declared, names = METHODS[method].PARAMETERS, NAMES[: row.experts]
    values = {n: _at(p, level) for n, p in declared.items()} | (fixed or {})
    own = {m: {n: v for n, v in values.items() if declared[n].per_model} for m in names}
    for i, m in enumerate(names):  # experts that differ, where the setting allows it
        if "weight" in own[m] and "weight" not in (fixed or {}):
            own[m]["weight"] = float(own[m]["weight"]) * (1 + 0.25 * i) + 0.05
    shared = {n: v for n, v in values.items() if not declared[n].per_model}
    return Inputs(BASE, names, own, shared, seed)


def defaults(method: str, experts: tuple[str, ...], given: Mapping[str, Setting]) -> Inputs:
    """The declared defaults and weights 1, but for what is given, the same for all experts."""
    declared = METHODS[method].PARAMETERS
    values = {n: p.default for n, p in declared.items()} | {"weight": 1.0} | dict(given)
    known = {n: v for n, v in values.items() if n in declared and v is not None}
    own = {n: v for n, v in known.items() if declared[n].per_model}
    shared = {n: v for n, v in known.items() if not declared[n].per_model}
    return Inputs(BASE, experts, dict.fromkeys(experts, own), shared, 3)


def alone(method: str) -> Inputs:
    """Settings at which a lone expert shall come out unchanged."""
    declared = METHODS[method].PARAMETERS
    values = {n: p.identity if p.identity is not None else p.default for n, p in declared.items()}
    own = {"a": {n: v for n, v in values.items() if declared[n].per_model and v is not None}}
    shared = {n: v for n, v in values.items() if not declared[n].per_model and v is not None}
    return Inputs(BASE, ("a",), own, shared, 0)


def statistics(x: dict[str, Tensor], name: str = "t", kind: str = "linear") -> TensorStatistics:
    """Statistics of one tensor that is a whole model."""
    whole = Whole(lambda: {name: found})
    on_text = partial(measured, tuple(x[BASE].shape))
    found = TensorStatistics(name, x.__getitem__, whole=whole, kind=kind, measured=on_text)
    return found


def measured(shape: tuple[int, ...], model: str, kind: str) -> Tensor | None:
    """A model's statistic on a text that nobody wrote: the same for the same arguments."""
    g = torch.Generator().manual_seed(1 + ["", *NAMES].index(model))
    if kind == "gram":
        if len(shape) != 2:
            return None
        x = torch.randn(2 * shape[1], shape[1], generator=g) * torch.rand(shape[1], generator=g)
        return x.T @ x / len(x)
    if kind == "sensitivity":
        return torch.rand(1, generator=g)
    if kind == "likelihood":
        return -torch.rand(50, generator=g)
    noise = torch.randn(shape, generator=g).bfloat16()
    return noise.square() if kind == "fisher" else noise.abs()


def merge(method: str, x: dict[str, Tensor], p: Inputs, out: torch.dtype = torch.float32) -> Tensor:
    """The merged tensor; fails if it is not finite."""
    mix = METHODS[method].mix(statistics(x), p)
    y = torch.empty(x[BASE].shape, dtype=out)
    assert stream(y, {m: (t, False) for m, t in x.items()}, mix).finite()
    return y


def _at(p: Parameter, level: float) -> Setting:
    if p.search is None:
        assert p.default is not None or p.published is not None
        return p.default if p.default is not None else p.published  # type: ignore[return-value]
    low, high = p.search
    value = low + level * (high - low)
    return float(round(value)) if p.whole else value
