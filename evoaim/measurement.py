"""Measures a live model's gradients and inputs on text, block by block."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evoaim.blueprint import Blueprint, Place, roles
from evoaim.errors import ConfigError
from search_spaces.anatomy import Anatomy

WIDE = 8192  # input channels above which only the diagonal of a Gram matrix is kept
_SUMS = {"fisher": "fisher", "gradient": "gradient", "sensitivity": "gradient"}
Measured = dict[str, dict[str, Tensor]]  # kind -> checkpoint key -> statistic, on the CPU


def measure(
    model: nn.Module, blueprint: Blueprint, blocks: Sequence[Tensor], kinds: Collection[str]
) -> Measured:
    """Statistics of a causal LM's weights and inputs on text; see `evoaim.data_statistics.KINDS`.

    Each block is an example of its own: gradients are exact for it, not of a batch.

    Args:
        model: live; its parameters are as they were afterwards.
        blueprint: of the checkpoint by whose keys the statistics shall be named.
        blocks: token ids, (n, block) int64 each.
        kinds: what to measure.

    Raises:
        ConfigError: no block of two tokens, gradients in float16, or something is not finite.
    """
    first = next(model.parameters())
    rows = [row[None] for block in blocks for row in block if len(row) > 1]
    if not rows:
        raise ConfigError("statistics: no text of at least two tokens")
    wanted = {_SUMS[kind] for kind in kinds if kind in _SUMS}
    if wanted and first.dtype == torch.float16:
        raise ConfigError(
            "statistics: gradients underflow in float16; take models.dtype bfloat16 or float32"
        )
    sums: dict[str, dict[str, Tensor]] = {}
    with ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()
        if "gram" in kinds:
            inputs = stack.enter_context(_recorded(model))
        if wanted:
            sums = stack.enter_context(_gradients(model, wanted))
        tokens = [_run(model, row.to(first.device), bool(wanted)) for row in rows]
    found: Measured = {kind: {} for kind in kinds}
    if "gram" in kinds:
        n = sum(row.numel() for row in rows)
        means = {name: _finite(total / n, name) for name, total in inputs.sums.items()}
        found["gram"] = _placed_grams(means, inputs.owners, blueprint)
    if "sensitivity" in kinds:
        found["sensitivity"] = _sensitivity(model, sums["gradient"], blueprint)
    for kind in ("fisher", "gradient"):
        if kind in kinds:
            found[kind] = _placed(sums[kind], len(rows), blueprint)
    if "likelihood" in kinds:
        likelihood = _finite(torch.cat(tokens), "the logits")
        found["likelihood"] = dict.fromkeys(blueprint.places, likelihood)
    return found


def _run(model: nn.Module, row: Tensor, backward: bool) -> Tensor:
    """Log-likelihood of every token of one block (1, n) but the first; back from its mean."""
    with torch.set_grad_enabled(backward):
        logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
        likelihood = -nn.functional.cross_entropy(logits, row[0, 1:], reduction="none")
        if backward:
            likelihood.mean().backward()  # type: ignore[no-untyped-call]
    return likelihood.detach().cpu()


@contextmanager
def _gradients(model: nn.Module, wanted: Collection[str]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Sums of g^2 ("fisher") and |g| ("gradient") over blocks, by live parameter.

    Each gradient is let go as soon as it is counted.
    """
    sums: dict[str, dict[str, Tensor]] = {kind: {} for kind in wanted}
    hooks, before = [], {}
    for name, parameter in model.named_parameters():
        for by_name in sums.values():
            by_name[name] = torch.zeros_like(parameter, dtype=torch.float32)
        before[name] = parameter.requires_grad
        parameter.requires_grad_(True)
        register: Any = parameter.register_post_accumulate_grad_hook
        hooks.append(register(_count(sums, name)))
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
            parameter.grad = None


def _count(sums: Mapping[str, Mapping[str, Tensor]], name: str) -> Callable[[Tensor], None]:
    def count(parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        g = parameter.grad.float()
        if "fisher" in sums:
            sums["fisher"][name].addcmul_(g, g)
        if "gradient" in sums:
            sums["gradient"][name].add_(g.abs())
        parameter.grad = None

    return count


class _Inputs:
    """Sums of x x^T by live parameter; one for all parameters that get the very same input."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.owners: dict[str, str] = {}  # parameter -> that under whose name its sum is
        self._last: Tensor | None = None  # held, so that its memory is not another input's
        self._of = ""

    def hook(self, name: str, channels: int) -> Callable[..., None]:
        """A forward pre-hook that counts the module's first input."""

        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x: Tensor = inputs[0] if inputs else next(iter(named.values()))
            if x.shape[-1] != channels:
                return  # the module takes something else first
            if x is self._last and self.owners.get(name, self._of) == self._of:
                self.owners[name] = self._of
                return
            self._last, self._of, self.owners[name] = x, name, name
            flat = x.detach().reshape(-1, channels).float()
            add = flat.square().sum(0) if channels > WIDE else flat.T @ flat
            self.sums[name] = self.sums[name].add_(add) if name in self.sums else add

        return hook


@contextmanager
def _recorded(model: nn.Module) -> Iterator[_Inputs]:
    """The inputs of all linear layers in the blocks."""
    found, kinds, hooks = _Inputs(), roles(model), []
    for path, module in model.named_modules():
        axis, kind = kinds.get(f"{path}.weight", (-1, ""))
        if kind == "linear":
            channels = dict(module.named_parameters(recurse=False))["weight"].shape[axis]
            hook = found.hook(f"{path}.weight", channels)
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def _placed(sums: dict[str, Tensor], n: int, blueprint: Blueprint) -> dict[str, Tensor]:
    """Means by checkpoint key, bfloat16 on the CPU."""
    found = {}
    for name, keys in blueprint.keys.items():
        mean = _finite(sums.pop(name) / n, name).bfloat16().cpu()
        for key in keys:
            place = blueprint.places[key]
            found[key] = place.view(mean).clone() if place.index else mean
    return found


def _placed_grams(
    means: Mapping[str, Tensor], owners: Mapping[str, str], blueprint: Blueprint
) -> dict[str, Tensor]:
    """By checkpoint key; keys that share an input share the tensor."""
    found, cut = {}, {}
    for key, place in blueprint.places.items():
        owner = owners.get(place.parameter)
        if owner is None or owner not in means:
            continue
        span = _channels(place, blueprint.axes[key])
        at = (owner, span.start, span.stop)
        if at not in cut:
            whole = means[owner]
            part = whole[span] if whole.dim() == 1 else whole[span, span]
            cut[at] = part.cpu().clone(memory_format=torch.contiguous_format)
        found[key] = cut[at]
    return found


def _channels(place: Place, axis: int) -> slice:
    """Which of the live parameter's input channels a checkpoint tensor has."""
    at = place.index[axis] if place.index else slice(None)
    return at if isinstance(at, slice) else slice(None)


def _sensitivity(
    model: nn.Module, sums: Mapping[str, Tensor], blueprint: Blueprint
) -> dict[str, Tensor]:
    anatomy = Anatomy(tuple(blueprint.places), blueprint.n_layers)
    parameters = dict(model.named_parameters())
    totals = torch.zeros(blueprint.n_layers, dtype=torch.float64)
    layers = {key: anatomy.layer(key) for key in blueprint.places}
    for key, layer in layers.items():
        if layer is not None:
            place = blueprint.places[key]
            w, g = (place.view(t[place.parameter].detach()) for t in (parameters, sums))
            totals[layer] += float((w.float().abs() * g).sum(dtype=torch.float64))
    norm = totals.norm()
    scaled = (totals / norm if norm > 0 else totals).float()
    return {k: scaled[i].reshape(1).clone() for k, i in layers.items() if i is not None}


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigError(
            f"statistics: what was measured of '{name}' is not finite; take another models.dtype "
            "(bfloat16, float32)"
        )
    return tensor
