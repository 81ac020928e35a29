"""References of the informed methods."""

import torch
from torch import Tensor

from evoaim.kernel import BASE
from evoaim.methods import Inputs
from tests.merging.row import Row, measured


def widen(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    """Column by column, as the authors' code: one statistic after the other."""
    if x0.dim() < 2:
        return x0 + widened(x, x0, [[(xi - x0).abs() for xi in x]], p)
    if x0.dim() == 3:
        return torch.stack([widen(x0[k], [xi[k] for xi in x], p) for k in range(len(x0))])
    sizes = [xi.norm(dim=0) for xi in x]
    cosines = [(xi * x0).sum(0) / (s * x0.norm(dim=0)) for xi, s in zip(x, sizes, strict=True)]
    changes = [[(s - x0.norm(dim=0)).abs() for s in sizes], [1 - c for c in cosines]]
    return x0 + widened(x, x0, changes, p)


def widened(x: list[Tensor], x0: Tensor, changes: list[list[Tensor]], p: Inputs) -> Tensor:
    factors = []
    for statistic in changes:
        ranks = torch.stack([c.argsort().argsort() for c in statistic])
        n = ranks.shape[-1]
        scores = (ranks.double() / n).softmax(0)
        for i, r in enumerate(ranks):
            scores[i][r > p.shared["ratio"] * (n - 1) / 2] = p.shared["calibration"]
        factors.append(scores)
    c = torch.stack(factors).mean(0)
    return sum(w * ci * (xi - x0) for w, ci, xi in zip(p.weights(), c, x, strict=True))


def fisher(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    found = [measured(tuple(x0.shape), e, "fisher").double() for e in p.experts]  # type: ignore[union-attr]
    if p.shared["normalize"]:
        found = [f / f.mean() for f in found]
    floor = p.shared["floor"] * sum(f.mean() for f in found) / len(found)
    c = [w * (f + floor) for w, f in zip(p.weights(), found, strict=True)]
    return sum(ci * xi for ci, xi in zip(c, x, strict=True)) / sum(c)


def regmean(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = p.weights()
    if x0.dim() != 2:
        return sum(wi * xi for wi, xi in zip(w, x, strict=True)) / sum(w)
    grams = [measured(tuple(x0.shape), e, "gram").double() for e in p.experts]  # type: ignore[union-attr]
    ridge = p.shared["ridge"] * sum(g.diagonal().mean() for g in grams) / len(grams)
    eye = torch.eye(x0.shape[1], dtype=x0.dtype)
    shaped = [g * (eye + p.shared["off_diagonal"] * (1 - eye)) + ridge * eye for g in grams]
    right = sum(wi * g @ xi.T for wi, g, xi in zip(w, shaped, x, strict=True))
    return torch.linalg.solve(sum(wi * g for wi, g in zip(w, shaped, strict=True)), right).T


def led(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    shape = tuple(x0.shape)
    masks = []
    for e, xi in zip(p.experts, x, strict=True):
        k = max(1, int(p.own[e]["density"] * x0.numel()))
        both = torch.ones(shape, dtype=torch.bool)
        for model, weights in ((e, xi), (BASE, x0)):
            score = (weights * measured(shape, model, "gradient").double()).abs()  # type: ignore[union-attr]
            both &= score >= score.flatten().sort(descending=True).values[k - 1]
        masks.append(both)
    alone = sum(m.int() for m in masks) == 1
    parts = zip(p.weights(), masks, x, strict=True)
    return x0 + p.shared["lambda"] * sum(w * (m & alone) * (xi - x0) for w, m, xi in parts)


def sens(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    shape = tuple(x0.shape)
    a, text = (
        torch.stack([measured(shape, e, kind).double() for e in p.experts])  # type: ignore[union-attr]
        for kind in ("sensitivity", "likelihood")
    )
    tau = (text[:, None] - text[None]).abs().sum((1, 2))
    k = len(x) * (a[:, 0] * tau / tau.sum() / p.shared["temperature"]).softmax(0)
    return x0 + p.shared["lambda"] * sum(ki * (xi - x0) for ki, xi in zip(k, x, strict=True))


ROWS = {
    "widen": Row(widen),
    "fisher": Row(fisher, variants=({}, {"normalize": True})),
    "led": Row(led),
    "sens": Row(sens),
    "regmean": Row(regmean, threads=1e-6),
}
