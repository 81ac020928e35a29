"""Interchangeable parts as modules of a package: the file's name is the part's name."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from evoaim.errors import ConfigError
from search_spaces.errors import unknown


@dataclass(frozen=True)
class Registry:
    """The plugins of one package. Listing names imports nothing; a look-up imports one module.

    Files whose name starts with an underscore are helpers, not plugins.
    """

    package: str
    noun: str

    def __iter__(self) -> Iterator[str]:
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"no package '{self.package}'")
        folder = Path(next(iter(spec.submodule_search_locations)))
        return iter(sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")))

    def __getitem__(self, name: str) -> ModuleType:
        """The plugin's module.

        Raises:
            ConfigError: there is no plugin of that name; the nearest one is offered.
        """
        loaded = sys.modules.get(f"{self.package}.{name}")
        if loaded is not None and not name.startswith("_"):
            return loaded
        if name not in set(self):
            raise ConfigError(unknown(self.noun, name, self))
        return import_module(f"{self.package}.{name}")


METHODS = Registry("evoaim.methods", "merge method")
OPTIMIZERS = Registry("evoaim.optimizers", "optimizer")
ESTIMATORS = Registry("fitness.estimators", "estimator")
SELECTORS = Registry("fitness.selectors", "panel")
