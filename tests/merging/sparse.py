"""References of the methods that mask deltas one by one: TIES, DARE, DELLA, Breadcrumbs."""

from collections.abc import Callable

import torch
from torch import Tensor

from evoaim.kernel import coin, mask_key
from evoaim.methods import Inputs
from evoaim.statistics import fingerprint
from search_spaces.parameters import Setting
from tests.merging.basic import NORMALIZE, RESCALE, rescaled, vote, weighted
from tests.merging.row import Row

Reference = Callable[[Tensor, list[Tensor], Inputs], Tensor]
Mask = Callable[[Tensor, Tensor, str, Inputs], Tensor]  # x_i, d_i, name, settings -> s_i

UNWEIGHTED = tuple({"vote": "unweighted", "normalize": n} for n in (True, False))
BY: tuple[dict[str, Setting], ...] = (*RESCALE, {"rescale_by": "probability"})
ROWS_OF: tuple[dict[str, Setting], ...] = (
    *RESCALE,
    {"scope": "row", "rescale": True},
    {"gamma": 0.3},
)
SPREAD: tuple[dict[str, Setting], ...] = (*BY, {"epsilon": 0.0}, {"rescale": False, "epsilon": 0.1})


def masked(mask: Mask, combine: Reference) -> Reference:
    def reference(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
        pairs = zip(x, p.experts, strict=True)
        return combine(x0, [mask(xi, xi - x0, name, p) for xi, name in pairs], p)

    return reference


def trimmed(x: Tensor, d: Tensor, name: str, p: Inputs) -> Tensor:
    k = max(1, int(p.own[name]["density"] * d.numel()))
    return rescaled(sorted_from(d.flatten(), 0, k).view_as(d), d, p)


def sorted_from(d: Tensor, first: int, n: int) -> Tensor:
    """Only the first .. first+n-1 largest |d| of a vector, the first of equal ones first."""
    kept = torch.sort(d.abs(), descending=True, stable=True).indices[first : first + n]
    return torch.zeros_like(d).index_copy(0, kept, d[kept])


def uniform(x: Tensor, p: Inputs) -> Tensor:
    key = mask_key(p.seed, fingerprint(x.float()), "t")
    return coin(key, 0, x.numel(), x.device).view_as(x)


def dropped(x: Tensor, d: Tensor, name: str, p: Inputs) -> Tensor:
    kept = float(p.own[name]["density"])
    s = torch.where(uniform(x, p) / 2**32 < kept, d, 0.0)
    if p.shared["rescale_by"] == "probability":
        return s / kept if p.shared["rescale"] else s
    return rescaled(s, d, p)


def pruned(x: Tensor, d: Tensor, name: str, p: Inputs) -> Tensor:
    kept, epsilon, spread = (float(p.own[name][n]) for n in ("density", "epsilon", "spread"))
    if kept == 1.0:
        return d
    half = epsilon + spread * min(kept, 1 - kept)
    n = d.shape[-1]
    ranks = d.abs().argsort(dim=-1, stable=True).argsort(dim=-1).float()
    share = (ranks * (255 / (n - 1))).round().double() / 255 if n > 1 else 0.5
    probability = kept - half + 2 * half * share + torch.zeros_like(d)
    s = torch.where((uniform(x, p) >> 8) / 2**24 < probability, d, 0.0)
    if not p.shared["rescale"]:
        return s
    if p.shared["rescale_by"] == "probability":
        return s / probability
    if d.numel() > 2**16:  # in expectation
        return s * d.abs().sum() / (probability * d.abs()).sum()
    return rescaled(s, d, p)


def banded(x: Tensor, d: Tensor, name: str, p: Inputs) -> Tensor:
    kept, dropped = (float(p.own[name][n]) for n in ("density", "gamma"))
    if kept == 1.0:
        return d
    rows = [d.flatten()] if p.shared["scope"] == "tensor" else list(d.reshape(-1, d.shape[-1]))
    n = int(kept * len(rows[0]))
    first = min(int(dropped * len(rows[0])), len(rows[0]) - n)
    s = torch.stack([sorted_from(row, first, n) for row in rows]).view_as(d)
    return rescaled(s, d, p)


def agreement(x0: Tensor, s: list[Tensor], p: Inputs) -> Tensor:
    """The unweighted vote."""
    w, sign = p.weights(), torch.where(sum(s) >= 0, 1.0, -1.0)
    agree = [(si.sign() == sign).to(x0.dtype) for si in s]
    total = sum(wi * si * m for wi, si, m in zip(w, s, agree, strict=True))
    if p.shared["normalize"]:
        weight = sum(wi * m for wi, m in zip(w, agree, strict=True))
        total = total / torch.where(weight == 0, 1.0, weight)
    return x0 + p.shared["lambda"] * total


def ties(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    combine = agreement if p.shared["vote"] == "unweighted" else vote
    return masked(trimmed, combine)(x0, x, p)


ROWS = {
    "ties": Row(ties, variants=(*RESCALE, *UNWEIGHTED, {"scope": "model"})),
    "dare_linear": Row(masked(dropped, weighted), variants=BY),
    "dare_ties": Row(masked(dropped, vote), variants=BY),
    "della_linear": Row(masked(pruned, weighted), variants=SPREAD),
    "della": Row(masked(pruned, vote), variants=SPREAD),
    "breadcrumbs": Row(masked(banded, weighted), variants=ROWS_OF),
    "breadcrumbs_ties": Row(masked(banded, vote), variants=(*NORMALIZE, {"scope": "row"})),
}
