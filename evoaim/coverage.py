"""Which weights of a model AIM has an importance for, and why it has none for the others."""

from collections.abc import Mapping
from dataclasses import dataclass

from evoaim.blueprint import Blueprint
from evoaim.importance import Importance

# Kinds of tensors that have no importance by their nature.
_WITHOUT: Mapping[str, str] = {
    "embedding": "an embedding: its input is a token, not channels",
    "tied": "tied to the embedding, which AIM leaves alone",
    "bias": "a bias: it has no input channels",
    "convolution": "a convolution kernel: not measured",
    "other": "not the weight of a linear, norm or expert module: not measured",
}


@dataclass(frozen=True)
class Coverage:
    """What AIM knows of one weight.

    Args:
        key: in the checkpoint.
        kind: see `Blueprint.kinds`.
        covered: it has an importance.
        why: whose inputs were measured, or why none were.
    """

    key: str
    kind: str
    covered: bool
    why: str


def coverage(blueprint: Blueprint, importance: Importance | None = None) -> tuple[Coverage, ...]:
    """For every merged tensor in the checkpoint's order whether AIM relaxes it, and why (not).

    Args:
        blueprint: of the base.
        importance: of the base, by checkpoint key; None: what a measurement will give.
    """
    return tuple(_covered(blueprint, importance, key) for key in blueprint.places)


def _covered(blueprint: Blueprint, importance: Importance | None, key: str) -> Coverage:
    kind = blueprint.kinds[key]
    if kind in _WITHOUT:
        return Coverage(key, kind, False, _WITHOUT[kind])
    if importance is not None and key not in importance.channels:
        return Coverage(key, kind, False, "no calibration token reached it as input channels")
    if kind != "experts":
        return Coverage(key, kind, True, "its own inputs")
    if "down" not in blueprint.places[key].parameter.rpartition(".")[2]:
        return Coverage(key, kind, True, "the inputs that all experts of the block share")
    rows = importance.channels[key] if importance is not None else None
    if rows is not None and not bool((rows.amax(-1) > 0).any()):
        return Coverage(key, kind, False, "no calibration token was routed to this expert")
    return Coverage(key, kind, True, "the expert's own inputs")
