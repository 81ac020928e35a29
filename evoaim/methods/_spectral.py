"""Thin singular value decompositions and polar factors of deltas, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Triplets:
    """Singular triplets, largest first; what lies beyond the matrix's rank is zero.

    Args:
        u: (..., m, k) left vectors as columns.
        s: (..., k) singular values.
        v: (..., n, k) right vectors as columns.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    def first(self, k: int) -> "Triplets":
        """The k largest."""
        return Triplets(self.u[..., :k], self.s[..., :k], self.v[..., :k])

    def mean(self) -> Tensor:
        """Mean of the singular values within the rank: (..., 1, 1)."""
        rank = (self.s > 0).sum(-1).clamp(min=1)
        return (self.s.sum(-1) / rank)[..., None, None]


def thin(d: Tensor, whole: Tensor | None = None) -> Triplets:
    """Singular triplets of d, min(m, n) of them.

    From the smaller Gram matrix, which in float64 resolves whatever float32 weights can: singular
    values up to max(m, n) * 2^-23 of the largest count as zero, the usual rank of a float32 matrix.

    Args:
        d: (..., m, n) float64.
        whole: (..., m, n), of which d is what a projection left: what is small beside its norm is
            rounding, too.
    """
    if d.shape[-2] > d.shape[-1]:
        turned = thin(d.mT, None if whole is None else whole.mT)
        return Triplets(turned.v, turned.s, turned.u)
    u = torch.linalg.eigh(d @ d.mT).eigenvectors.flip(-1)
    v = d.mT @ u
    s = torch.linalg.vector_norm(v, dim=-2)
    largest = s.amax(-1, keepdim=True)
    if whole is not None:
        largest = largest.maximum(torch.linalg.matrix_norm(whole)[..., None])
    within = s > largest * (d.shape[-1] * EPS)
    inverse = torch.where(within, 1 / torch.where(within, s, 1.0), 0.0)
    return Triplets(u * within[..., None, :], s * within, v * inverse[..., None, :])


def polar(x: Tensor) -> Tensor:
    """Orthonormal columns nearest to those of x (..., m, k), float64; zero outside of x's range."""
    values, q = torch.linalg.eigh(x.mT @ x)
    within = values > values.amax(-1, keepdim=True) * (max(x.shape[-2:]) * EPS) ** 2
    inverse = torch.where(within, torch.where(within, values, 1.0).rsqrt(), 0.0)
    nearest: Tensor = x @ ((q * inverse[..., None, :]) @ q.mT)
    return nearest
