"""References of the averages and of the task-vector methods that everyone has."""

import torch
from torch import Tensor

from evoaim.methods import Inputs
from tests.merging.row import Row

NORMALIZE = ({}, {"normalize": True}, {"normalize": False})
RESCALE = (*NORMALIZE, {"rescale": True}, {"rescale": False})


def linear(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    total = sum(w) if p.shared["normalize"] else 1.0
    return sum(wi * xi for wi, xi in zip(w, x, strict=True)) / total


def task_arithmetic(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    return weighted(x0, [xi - x0 for xi in x], p)


def weighted(x0: Tensor, masked: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    total = sum(wi * d for wi, d in zip(w, masked, strict=True))
    return x0 + p.shared["lambda"] * total / (sum(w) if p.shared["normalize"] else 1.0)


def vote(x0: Tensor, masked: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    v = [wi * s for wi, s in zip(w, masked, strict=True)]
    sign = torch.where(sum(v) >= 0, 1.0, -1.0)
    agree = [(vi.sign() == sign).to(x0.dtype) for vi in v]
    total = sum(vi * m for vi, m in zip(v, agree, strict=True))
    if p.shared["normalize"]:
        weight = sum(wi * m for wi, m in zip(w, agree, strict=True))
        total = total / torch.where(weight == 0, 1.0, weight)
    return x0 + p.shared["lambda"] * total


def rescaled(s: Tensor, d: Tensor, p: Inputs) -> Tensor:
    if p.shared["rescale"] and s.abs().sum() >= 1e-7:
        s = s * d.abs().sum() / s.abs().sum()
    return s


def slerp(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    t, a, b = p.shared["t"], x0, x[0]
    cosine = (a * b).sum() / (a.norm() * b.norm())
    if cosine.abs() > 0.9995:
        return (1 - t) * a + t * b
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


ROWS = {
    "linear": Row(linear, variants=NORMALIZE, equal_base={"normalize": True}),
    "task_arithmetic": Row(task_arithmetic, variants=NORMALIZE),
    "slerp": Row(slerp, experts=1),
}
