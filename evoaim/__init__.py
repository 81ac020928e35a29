"""evoaim: search for the best way to merge language models, with AIM as a gene.

The names below are imported at first use, so that `import evoaim` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoaim.ask_tell import Search
    from evoaim.config import Experiment
    from evoaim.engine import MergeEngine
    from evoaim.importance import Importance, calibrate
    from evoaim.search import run_search
    from evoaim.spaces import search_space
    from search_spaces.recipe import Recipe

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "evoaim.config",
    "Importance": "evoaim.importance",
    "MergeEngine": "evoaim.engine",
    "Recipe": "search_spaces.recipe",
    "Search": "evoaim.ask_tell",
    "calibrate": "evoaim.importance",
    "run_search": "evoaim.search",
    "search_space": "evoaim.spaces",
}
__all__ = [
    "Experiment",
    "Importance",
    "MergeEngine",
    "Recipe",
    "Search",
    "calibrate",
    "run_search",
    "search_space",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evoaim' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
