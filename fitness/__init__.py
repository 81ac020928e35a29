"""How a live model is scored: panels of documents, lm-eval's tasks, estimators, objectives.

Importing the package imports nothing heavy: names are looked up in their files at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fitness.errors import FitnessError, ScoringError

if TYPE_CHECKING:
    from fitness.harness import Harness
    from fitness.objectives import ObjectiveSpec, contradictions, estimate_objectives, resolve
    from fitness.panel import random_panel
    from fitness.types import (
        DocumentScores,
        Estimate,
        HarnessConfig,
        Metric,
        Objective,
        Panel,
        Scores,
        Split,
    )

_HOMES = {
    "Harness": "harness",
    "ObjectiveSpec": "objectives",
    "contradictions": "objectives",
    "estimate_objectives": "objectives",
    "resolve": "objectives",
    "random_panel": "panel",
    "DocumentScores": "types",
    "Estimate": "types",
    "HarnessConfig": "types",
    "Metric": "types",
    "Objective": "types",
    "Panel": "types",
    "Scores": "types",
    "Split": "types",
}

__all__ = [
    "DocumentScores",
    "Estimate",
    "FitnessError",
    "Harness",
    "HarnessConfig",
    "Metric",
    "Objective",
    "ObjectiveSpec",
    "Panel",
    "Scores",
    "ScoringError",
    "Split",
    "contradictions",
    "estimate_objectives",
    "random_panel",
    "resolve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fitness' has no attribute '{name}'")
    return getattr(import_module(f"fitness.{_HOMES[name]}"), name)
