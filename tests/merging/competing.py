"""References of the methods in which deltas compete for elements: SCE, CABS, PCB and others."""

import torch
from torch import Tensor

from evoaim.methods import Inputs
from tests.merging.row import Row


def sce(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    d = torch.stack([xi - x0 for xi in x])
    v = torch.tensor(p.weights(), dtype=d.dtype).view(-1, *[1] * x0.dim()) * d
    topk, keep = p.shared["select_topk"], torch.ones_like(x0)
    if topk < 1:
        variance = d.var(0, correction=0).flatten()
        k = int(variance.count_nonzero() * topk)
        order = torch.sort(variance, descending=True, stable=True).indices[:k]
        keep = torch.zeros_like(variance).index_fill(0, order, 1.0).view_as(x0)
    square = ((v * keep) ** 2).flatten(1).mean(1)
    enough = square.sum() > 0 and square.sum() >= p.shared["floor"]
    c = square / square.sum() if enough else torch.full_like(square, 1 / len(x))
    v = v * keep if p.shared["mode"] == "masked" else v
    sign = torch.where(v.sum(0) >= 0, 1.0, -1.0)
    c = c.view(-1, *[1] * x0.dim()) * (v.sign() == sign)
    divisor = c.sum(0).clamp(min=1e-6 if p.shared["mode"] == "masked" else 1e-30)
    return x0 + p.shared["lambda"] * (c * v).sum(0) / divisor


def cabs(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    m, n = int(p.shared["m"]), x0.numel()
    y, taken = x0.clone().flatten(), torch.zeros(-(-n // m), m, dtype=bool)
    sizes = torch.tensor([min(m, n - at) for at in range(0, n, m)])
    for i in sorted(range(len(x)), key=lambda i: -p.own[p.experts[i]]["priority"]):
        own, d = p.own[p.experts[i]], (x[i] - x0).flatten()
        key = torch.full(taken.shape, -1.0, dtype=d.dtype)  # what lies behind the end comes last
        key.view(-1)[:n] = d.abs()
        key += torch.where(taken | (key < 0), 0.0, 1.0 + d.abs().max())
        place = key.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        counts = -(-max(1, round(own["density"] * m)) * sizes // m)
        kept = place < counts[:, None]
        taken |= kept
        y += own["weight"] * torch.where(kept.view(-1)[:n], d, 0.0)
    return y.view_as(x0)


def pcb(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    d = torch.stack([xi - x0 for xi in x]).flatten(1)
    n, size = d.shape

    def quantile(v: Tensor, at: int) -> Tensor:
        return v.sort(1).values[:, max(at, 0), None]

    def minmax(v: Tensor) -> Tensor:
        low, high = v.amin(1, keepdim=True), v.amax(1, keepdim=True)
        return torch.where(high > low, (v - low) / (high - low), 0.0)

    q, ratio = p.shared["clip"], p.shared["ratio"]
    a = d.abs()
    a = a.clamp(quantile(a, int(size * q)), quantile(a, int(size * (1 - q) - 1)))
    b = torch.exp(n * minmax(a) ** 2) * torch.tanh(d * d.sum(0))
    f = minmax(b.maximum(quantile(b, int(size * (1 - ratio)))))
    w = torch.tensor(p.weights(), dtype=d.dtype)[:, None]
    total = (w * d.sign() * a * f).sum(0) / f.sum(0).clamp(min=1e-12)
    return x0 + total.view_as(x0)


def scaled(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    return torch.stack([w * (xi - x0) for w, xi in zip(p.weights(), x, strict=True)])


def consensus(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    v = scaled(x0, x, p)
    t = v.sum(0)
    limits = p.numbers("threshold")
    needed = [vi.abs() > t.sub(vi).abs() * li for vi, li in zip(v, limits, strict=True)]
    kept = torch.stack(needed).sum(0) >= min(p.shared["k"], len(x))
    return x0 + p.shared["lambda"] * t * kept


def emr(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    v = scaled(x0, x, p)
    g = torch.where(v.mean(0) > 0, 1.0, -1.0)
    return x0 + p.shared["lambda"] * g * (v * g).clamp(min=0.0).amax(0)


def magmax(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    v = scaled(x0, x, p)
    return x0 + p.shared["lambda"] * v.gather(0, v.abs().argmax(0, keepdim=True))[0]


OFFICIAL = {"mode": "official"}
ROWS = {
    "sce": Row(sce, variants=({}, OFFICIAL, {"floor": 1.0}, OFFICIAL | {"floor": 0.0})),
    "cabs": Row(cabs, unordered=False, variants=({}, {"m": 4.0}, {"m": 3.0})),
    "pcb": Row(pcb, alone=False, variants=({}, {"scope": "tensor"}, {"clip": 0.01})),
    "consensus": Row(consensus, variants=({}, {"k": 9.0}, {"threshold": 0.0})),
    "emr": Row(emr),
    "magmax": Row(magmax),
}
