"""References of the spectral methods, with torch's own decomposition."""

from functools import partial

import torch
from torch import Tensor

from evoaim.methods import Inputs
from tests.merging.row import Row


def mean(x0: Tensor, d: list[Tensor], p: Inputs) -> Tensor:
    """What is no matrix."""
    total = sum(w * di for w, di in zip(p.weights(), d, strict=True))
    return x0 + p.shared["lambda"] * total / len(d)


def matrices(merged, x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:  # type: ignore[no-untyped-def]
    d = [xi - x0 for xi in x]
    if x0.dim() < 2:
        return mean(x0, d, p)
    return x0 + p.shared["lambda"] * merged(
        [w * di for w, di in zip(p.weights(), d, strict=True)], p
    )


def svd(d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(d, full_matrices=False)
    return u, s, vh.mT


def iso_c(d: list[Tensor], _: Inputs) -> Tensor:
    u, s, v = svd(sum(d))  # type: ignore[arg-type]
    rank = (s > 1e-9 * s.amax()).sum(-1).clamp(min=1)
    within = (s > 1e-9 * s.amax()).to(u.dtype)
    return (s.sum(-1) / rank)[..., None, None] * (u * within[..., None, :]) @ v.mT


def orthonormal(x: Tensor) -> Tensor:
    u, _, v = svd(x)
    return u @ v.mT


def iso_cts(d: list[Tensor], p: Inputs) -> Tensor:
    n, limit = len(d), min(d[0].shape[-2:])
    own = min(round((limit - int(p.shared["common"] * limit)) / n), limit // n)
    k = limit - n * own
    u, s, v = (part[..., :k] for part in svd(sum(d)))  # type: ignore[arg-type]
    us, ss, vs = [u], [s], [v]
    for di in d:
        ui, si, vi = svd(di - u @ u.mT @ di)
        us, ss, vs = [*us, ui[..., :own]], [*ss, si[..., :own]], [*vs, vi[..., :own]]
    s = torch.cat(ss, -1)
    middle = s.mean(-1)[..., None, None]
    return middle * orthonormal(torch.cat(us, -1)) @ orthonormal(torch.cat(vs, -1)).mT


def tsv_m(d: list[Tensor], _: Inputs) -> Tensor:
    k = max(1, min(d[0].shape[-2:]) // len(d))
    parts = [[part[..., :k] for part in svd(di)] for di in d]
    u, s, v = (torch.cat(rows, -1) for rows in zip(*parts, strict=True))
    return (orthonormal(u) * s[..., None, :]) @ orthonormal(v).mT


def star(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    total = torch.zeros_like(x0)
    for name, w, xi in zip(p.experts, p.weights(), x, strict=True):
        d, eta = xi - x0, p.own[name]["eta"]
        if x0.dim() >= 2 and eta < 1:
            flat = d.reshape(-1, *d.shape[-2:])
            d = torch.stack([trimmed(m, eta) for m in flat]).reshape(d.shape)
        total += w * d
    return x0 + p.shared["lambda"] * total / (sum(p.weights()) if p.shared["normalize"] else 1.0)


def trimmed(d: Tensor, eta: float) -> Tensor:
    u, s, v = svd(d)
    r = 1
    while s[:r].sum() < eta * s.sum() and r < len(s):
        r += 1
    return (u[:, :r] * s[:r] * s.sum() / s[:r].sum()) @ v[:, :r].T


def wudi(d: list[Tensor], p: Inputs) -> Tensor:
    grams = [di.mT @ di / di.square().sum((-1, -2), keepdim=True) for di in d]
    total = torch.stack(grams).sum(0)
    r = p.shared["ridge"] * total.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(total.shape[-1], dtype=total.dtype)
    target = sum(di @ (g + r * eye) for di, g in zip(d, grams, strict=True))
    return target @ torch.linalg.inv(total + r * eye)


THREADS = 1e-6

ROWS = {
    "iso_c": Row(partial(matrices, iso_c), alone=False, threads=THREADS),
    "iso_cts": Row(partial(matrices, iso_cts), alone=False, threads=THREADS),
    "tsv_m": Row(partial(matrices, tsv_m), threads=THREADS),
    "star": Row(star, variants=({}, {"normalize": False}), threads=THREADS),
    "wudi": Row(partial(matrices, wudi), threads=THREADS),
}
