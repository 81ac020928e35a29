"""What recipes may call the models at hand."""

from collections.abc import Mapping

from evoaim.checkpoint import Checkpoint, Weights
from evoaim.errors import ConfigError
from evoaim.kernel import BASE


def names_of(base: Checkpoint, experts: Mapping[str, Weights]) -> dict[str, str]:
    """Every name that a recipe may use -> key of the model.

    Raises:
        ConfigError: a name stands for two models.
    """
    named = [(base.name, BASE), (str(base.folder), BASE)]
    for short, w in experts.items():
        named += [(short, short), (w.name, short), (str(w.folder), short)]
    keys: dict[str, str] = {}
    for name, key in named:
        if keys.setdefault(name, key) != key:
            raise ConfigError(
                f"models: '{name}' stands for two models, as a short name and as a path or as "
                "two spellings of one path; rename one"
            )
    keys.setdefault("base", BASE)
    return keys
