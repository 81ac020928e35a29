"""AIM importance: how active every input channel of the base model is on calibration text.

Activation-Informed Merging, arXiv:2502.02421. Per module, s_j = mean |x_j| over all tokens, where
x is the module's input; importance I = s / max_j s, in [0, 1].
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from evoaim.errors import ConfigError

FORMAT = "evoaim-importance-1"


@dataclass(frozen=True)
class Importance:
    """One vector a weight: weight name in the live model -> (in_features,) float32 in [0, 1].

    Embeddings, weights tied to them, and biases have none: AIM does not touch them.
    """

    channels: Mapping[str, Tensor]
    origin: Mapping[str, str] = field(default_factory=dict)  # what was measured on what

    def factor(self, weight: str, omega: float, gamma: float, axis: int) -> Tensor | None:
        """Relaxation factor `1 - I**gamma * (1 - omega)` along the input channels of a weight.

        Args:
            weight: name in the live model.
            omega: AIM strength in [0, 1]; 1 switches AIM off.
            gamma: exponent, above 0.
            axis: where the input channels are: -1 for (out, in) and 1-D weights, 0 for (in, out).

        Returns:
            (in,) for axis -1, (in, 1) for axis 0; None where AIM changes nothing.
        """
        channel = self.channels.get(weight)
        if channel is None or omega == 1.0:
            return None
        f = 1.0 - channel.pow(gamma) * (1.0 - omega)
        return f if axis == -1 else f[:, None]

    def to(self, device: torch.device) -> "Importance":
        """The same importance on another device."""
        return Importance({k: v.to(device) for k, v in self.channels.items()}, self.origin)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, one tensor a weight, whole or not at all.

        Raises:
            ConfigError: it cannot be written there.
        """
        tensors = {k: v.cpu().contiguous() for k, v in self.channels.items()}
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata={"format": FORMAT, **self.origin})
            temporary.replace(path)
        except (SafetensorError, OSError) as error:
            with suppress(OSError):
                temporary.unlink()
            raise ConfigError(f"importance '{path}': cannot be written ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> "Importance":
        """Read a file written by `save`.

        Raises:
            ConfigError: missing, damaged, or not an importance file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                origin = dict(file.metadata() or {})
                channels = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ConfigError(
                f"importance '{path}': no such file; `evoaim calibrate` writes one"
            ) from None
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"importance '{path}': cannot be read ({error})") from None
        if origin.pop("format", None) != FORMAT:
            raise ConfigError(f"importance '{path}': was not written by `evoaim calibrate`")
        for name, channel in channels.items():
            if not ((channel >= 0) & (channel <= 1)).all():
                raise ConfigError(f"importance '{path}': '{name}' has values outside [0, 1]")
        return cls(channels, origin)


def calibrate(base: str | nn.Module, token_batches: Iterable[Tensor] | None) -> Importance | None:
    """Measure the importance of a base model's input channels.

    Args:
        base: folder or hub id of a causal LM, or the live model.
        token_batches: token ids, each (n, block) int64; None: AIM is not available.

    Returns:
        The importance, on the CPU; None without token batches.

    Raises:
        ConfigError: no tokens, activations that are not finite, or the model cannot be loaded.
    """
    if token_batches is None:
        return None
    if isinstance(base, str):
        from evoaim.live import load_live

        base = load_live(base, torch.float32, torch.device("cpu"))
    digest, n_tokens = sha256(), 0
    first = next(base.parameters())
    with _recorded(base) as sums, torch.inference_mode():
        for batch in token_batches:
            digest.update(batch.cpu().contiguous().numpy().tobytes())
            n_tokens += batch.numel()
            base(input_ids=batch.to(first.device), use_cache=False)
    if n_tokens == 0:
        raise ConfigError("calibration: no tokens; give text that is longer than one token")
    channels = {}
    for name, total in sums.items():
        top = total.max()
        if not torch.isfinite(top):
            raise ConfigError(
                f"calibration: the inputs of '{name}' are not finite in {first.dtype}; "
                "take another models.dtype (bfloat16, float32)"
            )
        scaled = total / top if top > 0 else torch.zeros_like(total)  # a dead module stays as it is
        channels[name] = scaled.float().cpu()
    origin = {"statistic": "mean_abs", "tokens": str(n_tokens), "text": digest.hexdigest()}
    return Importance(channels, origin)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Sums of |input| per channel in float64, by weight name, while the block runs."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach()
            total = x.reshape(-1, x.shape[-1]).float().abs().sum(0, dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total

        return hook

    hooks = [
        module.register_forward_pre_hook(watch(f"{path}.weight"))
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        and module.weight.dim() in (1, 2)
        and id(module.weight) not in embeddings
    ]
    training = model.training
    model.eval()
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
