"""Statistics of one model on text: a safetensors file that is mapped and read tensor by tensor."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evoaim.errors import ConfigError
from search_spaces.errors import unknown

FORMAT = "evoaim-statistics-1"
# With x a layer's input, g the gradient of a block's mean loss a token; means are over the blocks.
KINDS: Mapping[str, str] = {
    "fisher": "mean g^2 of every weight, bfloat16: the diagonal of the empirical Fisher matrix",
    "gradient": "mean |g| of every weight, bfloat16",
    "gram": "mean x x^T over all tokens of every linear layer's input: (in, in) float32, or its "
    "diagonal (in,) of very wide layers",
    "sensitivity": "of every weight in a layer: sum |w| mean |g| over the layer, (1,) float32, "
    "scaled so that its squares sum to 1 over the layers",
    "likelihood": "log-likelihood of every token that has one before it in its block: (tokens,) "
    "float32, the same for all weights",
}


def read_kinds(text: str) -> tuple[str, ...]:
    """Kinds from `fisher,gram`, in the order of KINDS.

    Raises:
        ConfigError: an unknown kind, or none.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"--statistics: {unknown('kind', name, KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)


@dataclass(frozen=True)
class DataStatistics:
    """What was measured of one model, by kind and checkpoint key.

    Args:
        path: of the file.
        kinds: that it has.
        origin: content hash of the model, tokens and hash of the text.
        shared: name of a tensor -> that of the one it equals, which is stored.
    """

    path: Path
    kinds: tuple[str, ...]
    origin: Mapping[str, str]
    shared: Mapping[str, str]

    @classmethod
    def open(cls, path: str | Path) -> "DataStatistics":
        """A file that `write` wrote; reads its header only.

        Raises:
            ConfigError: missing, damaged, or not such a file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                origin = dict(file.metadata() or {})
        except FileNotFoundError:
            raise ConfigError(
                f"statistics '{path}': no such file; `evoaim calibrate --statistics` writes one"
            ) from None
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"statistics '{path}': cannot be read ({error})") from None
        if origin.pop("format", None) != FORMAT:
            raise ConfigError(
                f"statistics '{path}': was not written by `evoaim calibrate --statistics`"
            )
        kinds = tuple(origin.pop("kinds").split(","))
        return cls(Path(path), kinds, origin, json.loads(origin.pop("shared")))

    def tensor(self, kind: str, key: str) -> Tensor | None:
        """One weight's statistic, on the CPU; None if there is none for such weights."""
        name = self.shared.get(f"{kind}/{key}", f"{kind}/{key}")
        if name not in self._names:
            return None
        found: Tensor = self._file.get_tensor(name)
        return found

    def check(self, content_hash: str, name: str) -> None:
        """Check that this model is the one that was measured.

        Raises:
            ConfigError: it is not.
        """
        if self.origin.get("model", content_hash) != content_hash:
            raise ConfigError(
                f"statistics '{self.path}': were measured on another model than '{name}'; run "
                f"`evoaim calibrate {name} --statistics {','.join(self.kinds)}`"
            )

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, framework="pt")

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self._file.keys())


def open_files(files: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, DataStatistics]:
    """Statistics by the key of their model.

    Args:
        files: name of a model -> file.
        keys: every name that a recipe may use -> key.

    Raises:
        ConfigError: an unknown model, or a file that is missing or wrong.
    """
    for name in files:
        if name not in keys:
            raise ConfigError(f"statistics: {unknown('model', name, keys)}")
    return {keys[name]: DataStatistics.open(path) for name, path in files.items()}


def lookup(found: DataStatistics | None, kind: str, key: str, name: str) -> Tensor | None:
    """One weight's statistic of the model `name`; None if there is none for such weights.

    Raises:
        ConfigError: this kind was not measured of the model.
    """
    if found is None or kind not in found.kinds:
        raise ConfigError(
            f"the merge method needs the statistic '{kind}' of '{name}', which was not measured; "
            f"run `evoaim calibrate {name} --data TEXT --out FILE --statistics {kind}` and name "
            f"the file in the recipe: statistics: {{{name}: FILE}}"
        )
    return found.tensor(kind, key)


def write(
    path: Path, measured: Mapping[str, Mapping[str, Tensor]], origin: Mapping[str, str]
) -> None:
    """Write statistics by kind and checkpoint key, whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    tensors: dict[str, Tensor] = {}
    owners: dict[int, str] = {}
    shared: dict[str, str] = {}
    for kind, by_key in measured.items():
        for key, tensor in by_key.items():
            name = f"{kind}/{key}"
            owner = owners.setdefault(id(tensor), name)
            if owner == name:
                tensors[name] = tensor
            else:
                shared[name] = owner
    metadata = {"format": FORMAT, "kinds": ",".join(measured), "shared": json.dumps(shared)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata | dict(origin))
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"statistics '{path}': cannot be written ({error})") from None
