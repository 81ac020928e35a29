"""How large the demo zoo is and how long its models are trained."""

from __future__ import annotations

from dataclasses import dataclass

RECIPE_VERSION = 2
"""Raised with every change that makes other files, so that zoos built before are built again."""


@dataclass(frozen=True)
class ZooSpec:
    """Sizes of the models (in units of their Llama configuration) and of their training."""

    hidden_size: int = 128
    layers: int = 4
    base_steps: int = 750
    expert_steps: int = 300
    batch: int = 64
