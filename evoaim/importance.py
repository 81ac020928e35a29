"""AIM importance: how active every input channel of the base model is on calibration text.

Activation-Informed Merging, arXiv:2502.02421. Per weight, s_j = mean |x_j| over all tokens, where
x is the input; importance I = s / max_j s, in [0, 1]. Other statistics s and other ways to bring
them to [0, 1] are variants of it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from evoaim.activations import STATISTICS, recorded
from evoaim.blueprint import Blueprint, Place, roles
from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError

QUANTILE = 0.99  # of a weight's channels, from which on importance is 1
MEANS = 2.0  # times the mean of a weight's channels, from which on importance is 1


def _by_max(s: Tensor) -> Tensor:
    return _capped(s, s.amax(-1, keepdim=True))


def _by_quantile(s: Tensor) -> Tensor:
    return _capped(s, s.quantile(QUANTILE, dim=-1, keepdim=True))


def _by_mean(s: Tensor) -> Tensor:
    return _capped(s, MEANS * s.mean(-1, keepdim=True))


def _by_rank(s: Tensor) -> Tensor:
    """The fraction of channels that are at most as active; 0 for a channel that never is."""
    rank = torch.searchsorted(s.sort(-1).values, s.contiguous(), right=True)
    return torch.where(s > 0, rank / s.shape[-1], torch.zeros_like(s))


def _capped(s: Tensor, scale: Tensor) -> Tensor:
    """min(1, s / scale); a dead weight, whose channels are all zero, keeps importance 0."""
    scale = torch.where(scale > 0, scale, s.amax(-1, keepdim=True))
    return (s / torch.where(scale > 0, scale, torch.ones_like(scale))).clamp(max=1.0)


# A statistic (..., in) >= 0 to importance in [0, 1], along the last axis and free of its scale.
NORMALIZATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max": _by_max,
    "quantile": _by_quantile,
    "mean": _by_mean,
    "rank": _by_rank,
}


@dataclass(frozen=True)
class Importance:
    """Statistics of every weight's inputs, scaled to maximum 1, which no normalization minds.

    A vector is (in,), or (experts, in) for a packed weight whose experts have inputs of their own.
    Embeddings, weights tied to them, and biases have none: AIM does not touch them.

    Args:
        channels: checkpoint key of a weight -> mean |x|.
        origin: what was measured on what.
        variants: name of another statistic -> checkpoint key -> vector.
    """

    channels: Mapping[str, Tensor]
    origin: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    # Vectors by identity (weights share them) as last asked for: all but omega changes rarely.
    _normal: dict[tuple[int, str], Tensor] = field(default_factory=dict, init=False, repr=False)
    _power: dict[tuple[int, str], tuple[float, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def factor(
        self,
        key: str,
        omega: float,
        gamma: float = 1.0,
        axis: int = -1,
        statistic: str = "mean_abs",
        normalization: str = "max",
    ) -> Tensor | None:
        """Relaxation factor `1 - I**gamma * (1 - omega)` along the input channels of a weight.

        Args:
            key: of the weight in the checkpoint.
            omega: AIM strength in [0, 1]; 1 switches AIM off.
            gamma: exponent, above 0.
            axis: of the input channels in the checkpoint's tensor (see `Blueprint.axes`).
            statistic: one of `STATISTICS`.
            normalization: one of `NORMALIZATIONS`.

        Returns:
            float32 that broadcasts over the checkpoint's tensor; None where AIM changes nothing.

        Raises:
            ConfigError: the statistic was not measured.
        """
        if omega == 1.0:
            return None
        shaped = self.shaped(key, gamma, axis, statistic, normalization)
        return None if shaped is None else 1.0 - shaped * (1.0 - omega)

    def shaped(
        self,
        key: str,
        gamma: float = 1.0,
        axis: int = -1,
        statistic: str = "mean_abs",
        normalization: str = "max",
    ) -> Tensor | None:
        """Importance `I**gamma` of a weight's input channels, as in `factor`; None: it has none."""
        if key not in self.channels:
            return None
        if statistic not in self.statistics:
            raise ConfigError(
                f"aim.statistic: '{statistic}' was not measured, only "
                f"{', '.join(self.statistics)}; run `evoaim calibrate` again"
            )
        vector = (self.channels if statistic == "mean_abs" else self.variants[statistic])[key]
        powered = self._powered(vector, gamma, normalization)
        if axis != -1:
            return powered.unsqueeze(-1)
        return powered if powered.dim() == 1 else powered.unsqueeze(-2)

    def _powered(self, vector: Tensor, gamma: float, normalization: str) -> Tensor:
        """I**gamma of a vector."""
        at = (id(vector), normalization)
        if at not in self._normal:
            self._normal[at] = NORMALIZATIONS[normalization](vector)
        if gamma == 1.0:
            return self._normal[at]
        if at not in self._power or self._power[at][0] != gamma:
            self._power[at] = (gamma, self._normal[at].pow(gamma))
        return self._power[at][1]

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of what was measured."""
        return ("mean_abs", *self.variants)

    def to(self, device: torch.device) -> "Importance":
        """The same importance on another device."""
        moved: dict[int, Tensor] = {}

        def move(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            for v in vectors.values():
                moved.setdefault(id(v), v.to(device))
            return {k: moved[id(v)] for k, v in vectors.items()}

        variants = {name: move(vectors) for name, vectors in self.variants.items()}
        return Importance(move(self.channels), self.origin, variants)

    def fitted(self, blueprint: Blueprint) -> "Importance":
        """The same importance by checkpoint key, where it has names of the live model's parameters.

        Those are the names that a live model is measured by and that files of version 1 have.

        Raises:
            ConfigError: a vector belongs to no weight of this architecture, or has another length.
        """
        sources = {
            key: key if key in self.channels else place.parameter
            for key, place in blueprint.places.items()
        }
        stray = sorted(set(self.channels) - set(sources.values()))
        if stray:
            raise _misfit(stray[0], self.channels[stray[0]], blueprint)

        def pick(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            found = {}
            for key, source in sources.items():
                if source not in vectors:
                    continue
                vector, axis = vectors[source], blueprint.axes[key]
                if source != key:
                    vector = _part(vector, blueprint.places[key], axis)
                if vector.shape[-1] != blueprint.shapes[key][axis]:
                    raise _misfit(source, vector, blueprint)
                found[key] = vector
            return found

        variants = {name: pick(vectors) for name, vectors in self.variants.items()}
        return Importance(pick(self.channels), self.origin, variants)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; see `evoaim.importance_file`."""
        from evoaim.importance_file import write

        write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Importance":
        """Read a file written by `save`; see `evoaim.importance_file`."""
        from evoaim.importance_file import read

        return read(Path(path))


def _part(vector: Tensor, place: Place, axis: int) -> Tensor:
    """What a live parameter's vector says of the checkpoint tensor at a place in it."""
    if not place.index:
        return vector
    if vector.dim() == 2:
        vector = vector[place.index[0]]
    at = place.index[axis]
    return vector[..., at] if at != slice(0, vector.shape[-1]) else vector


def _misfit(name: str, vector: Tensor, blueprint: Blueprint) -> ConfigError:
    return ConfigError(
        f"importance: was measured on another model ('{name}' with {vector.shape[-1]} channels is "
        f"no weight of '{blueprint.name}'); run `evoaim calibrate {blueprint.name}`"
    )


def calibrate(base: str | nn.Module, token_batches: Iterable[Tensor] | None) -> Importance | None:
    """Measure the importance of a base model's input channels.

    Args:
        base: folder or hub id of a causal LM, or the live model.
        token_batches: token ids, each (n, block) int64; None: AIM is not available.

    Returns:
        The importance, on the CPU; of a live model by the names of its parameters (see
        `Importance.fitted`). None without token batches.

    Raises:
        ConfigError: no tokens, activations that are not finite, or the model cannot be loaded.
    """
    if token_batches is None:
        return None
    if isinstance(base, str):
        from evoaim.live import load_live

        checkpoint = Checkpoint.open(base)
        live = load_live(checkpoint, torch.float32, torch.device("cpu"))
        return _measured(live, token_batches).fitted(Blueprint.of(checkpoint))
    return _measured(base, token_batches)


def _measured(model: nn.Module, token_batches: Iterable[Tensor]) -> Importance:
    digest, n_tokens = sha256(), 0
    first = next(model.parameters())
    with recorded(model) as moments, torch.inference_mode():
        for batch in token_batches:
            digest.update(batch.cpu().contiguous().numpy().tobytes())
            n_tokens += batch.numel()
            model(input_ids=batch.to(first.device), use_cache=False)
    if n_tokens == 0:
        raise ConfigError("calibration: no tokens; give text that is longer than one token")
    parameters, axes = dict(model.named_parameters(remove_duplicate=False)), roles(model)
    vectors: dict[str, dict[str, Tensor]] = {name: {} for name in STATISTICS}
    for name, moment in moments.items():
        found = moment.statistics()
        if not torch.isfinite(found).all():
            raise ConfigError(
                f"calibration: the inputs of '{name}' are not finite in {first.dtype}; "
                "take another models.dtype (bfloat16, float32)"
            )
        if found.shape[-1] != parameters[name].shape[axes[name][0]]:
            continue  # the module takes something else first; see `coverage`
        for statistic, row in zip(STATISTICS, found, strict=True):
            vectors[statistic][name] = _by_max(row).float().cpu()
    origin = {"tokens": str(n_tokens), "text": digest.hexdigest()}
    variants = {name: vectors[name] for name in STATISTICS if name != "mean_abs"}
    return Importance(vectors["mean_abs"], origin, variants)
