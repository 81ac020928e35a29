"""Measures how active the inputs of every weight are while a model reads text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evoaim.blueprint import roles
from search_spaces.parameters import AIM_PARAMETERS

STATISTICS = AIM_PARAMETERS["statistic"].choices
_PRODUCTS = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
}


@dataclass
class Moments:
    """Of tokens, per input channel: sums in float32 within a batch, in float64 over batches.

    A weight with inputs of its own per expert has (experts, in) values, every other (in,).
    """

    count: Tensor
    absolute: Tensor  # sum of |x|
    mean: Tensor  # of x
    spread: Tensor  # sum of (x - mean)^2
    top: Tensor  # maximum of |x|

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> "Moments":
        """No token seen yet."""
        values = [torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4)]
        return cls(torch.zeros((*shape[:-1], 1), dtype=torch.float64, device=device), *values)

    @classmethod
    def of(cls, x: Tensor) -> "Moments":
        """One batch of tokens (..., in)."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        found = cls.empty((x.shape[-1],), x.device)
        if len(x):
            size, mean = x.abs(), x.mean(0)
            found.count += len(x)
            found.absolute += size.sum(0)
            found.mean += mean
            found.spread += (x - mean).square().sum(0)
            found.top += size.amax(0)
        return found

    def add(self, batch: "Moments", expert: int | tuple[()] = ()) -> None:
        """Count a batch, for one expert or for all of the weight (Chan et al. 1979, eq. 2.1)."""
        total = (self.count[expert] + batch.count).clamp(min=1)
        delta = batch.mean - self.mean[expert]
        self.spread[expert] += (
            batch.spread + delta.square() * self.count[expert] * batch.count / total
        )
        self.mean[expert] += delta * batch.count / total
        self.absolute[expert] += batch.absolute
        self.top[expert] = torch.maximum(self.top[expert], batch.top)
        self.count[expert] += batch.count

    def statistics(self) -> Tensor:
        """In the order of STATISTICS: (4, in) or (4, experts, in); zeros where no token came."""
        n = self.count.clamp(min=1)
        found = {
            "mean_abs": self.absolute / n,
            "rms": (self.spread / n + self.mean.square()).sqrt(),
            "max_abs": self.top,
            "std": (self.spread / n).sqrt(),
        }
        return torch.stack([found[name] for name in STATISTICS])


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Moments]]:
    """Moments of the inputs of linear and norm weights and experts, by live parameter name.

    The gate and up projections of packed experts get the input of all experts of the block; their
    down projections get each expert's own. Embeddings, biases and convolutions get nothing.
    """
    found: dict[str, Moments] = {}
    inputs, hooks = _Inputs(found), []
    packed: dict[str, Tensor] = {}
    kinds = {name: kind for name, (_, kind) in roles(model).items()}
    for path, module in model.named_modules():
        names = []
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if kinds[name] == "experts" and "down" in leaf:
                packed[name] = parameter
            elif kinds[name] in ("linear", "head", "norm", "experts"):
                names.append(name)
        if names:
            hooks.append(module.register_forward_pre_hook(inputs.hook(names), with_kwargs=True))
    training = model.training
    model.eval()
    try:
        if packed:
            with _eager_experts(model), _Products(found, packed):
                yield found
        else:
            yield found
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


class _Inputs:
    """Counts a module's first input for its weights."""

    def __init__(self, found: dict[str, Moments]) -> None:
        self.found = found
        self.last: tuple[Tensor, Moments] | None = None

    def hook(self, names: list[str]) -> Any:
        """A forward pre-hook for the module with these weights."""

        def count(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = inputs[0] if inputs else next(iter(named.values()))
            if self.last is None or self.last[0] is not x:  # q, k and v read the same
                self.last = (x, Moments.of(x))
            if names[0] not in self.found:
                empty = Moments.empty((x.shape[-1],), x.device)
                self.found.update(dict.fromkeys(names, empty))
            self.found[names[0]].add(self.last[1])

        return count


class _Products(TorchFunctionMode):
    """Counts the inputs of matrix products with a packed experts' weight, expert by expert."""

    def __init__(self, found: dict[str, Moments], packed: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.found = found
        self.experts = {
            matrix.data_ptr(): (name, expert, len(parameter))
            for name, parameter in packed.items()
            for expert, matrix in enumerate(parameter)
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), named: Any = None
    ) -> Any:
        if function in _PRODUCTS and len(args) > 1 and args[1].data_ptr() in self.experts:
            self.count(args[0], args[1])
        return function(*args, **(named or {}))

    def count(self, x: Tensor, weight: Tensor) -> None:
        """x (tokens, in) for one expert's matrix, or (experts, tokens, in) for all of them."""
        name, expert, n = self.experts[weight.data_ptr()]
        if name not in self.found:
            self.found[name] = Moments.empty((n, x.shape[-1]), x.device)
        if weight.dim() == 2:
            self.found[name].add(Moments.of(x), expert)
        else:
            for each in range(n):
                self.found[name].add(Moments.of(x[each]), each)


@contextmanager
def _eager_experts(model: Any) -> Iterator[None]:
    """Experts computed one by one, where the model offers other ways too."""
    if not hasattr(model, "set_experts_implementation"):
        yield
        return
    current = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(current)
