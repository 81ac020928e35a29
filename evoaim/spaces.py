"""Search spaces over an engine's models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evoaim.config import SpaceConfig
from evoaim.engine import MergeEngine
from evoaim.errors import ConfigError
from evoaim.methods import facts
from evoaim.plugins import explain
from search_spaces.build import Layout, build_space
from search_spaces.space import Models, SearchSpace


def search_space(engine: MergeEngine, block: str | Mapping[str, Any], seed: int = 0) -> SearchSpace:
    """A space over an engine's models; its `decode` gives recipes for the engine.

    Args:
        engine: whose base and experts are merged.
        block: the `search_space` of an experiment, such as `{"method": "ties", "genes": {"weight":
            {"per": ["expert"]}, "density": {}}, "layer_groups": 2}`; or the name of a preset.
        seed: of random masks.

    Raises:
        ConfigError, SpaceError: an unknown key, method or preset, or it does not fit the models.
    """
    given = {"preset": block} if isinstance(block, str) else block
    try:
        config = TypeAdapter(SpaceConfig).validate_python(given)
    except ValidationError as error:
        raise ConfigError(f"search_space.{explain(error, SpaceConfig)}") from None
    return space_of(engine, config, seed)


def space_of(engine: MergeEngine, config: SpaceConfig, seed: int) -> SearchSpace:
    """The space that an experiment describes.

    Raises:
        ConfigError, SpaceError: as `search_space`.
    """
    models = Models(engine.base.name, {n: e.name for n, e in engine.experts.items()})
    layout = Layout(config.layer_groups, tuple(config.module_types))
    return replace(build_space(config.block(), layout, facts, models, engine.anatomy), seed=seed)
