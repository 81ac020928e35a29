"""References of the spherical methods, of weighting rules, and of geometric methods.

Those of methods that may see models from any base take it as their first argument, None: without.
"""

import torch
from torch import Tensor

from evoaim.methods import Inputs
from tests.merging.row import Row


def nuslerp(origin: Tensor | None, x: list[Tensor], p: Inputs) -> Tensor:
    a, b = (xi if origin is None else xi - origin for xi in x)
    w = p.weights()
    t = w[1] / sum(w)
    if p.shared["nuslerp_flatten"]:
        axes: tuple[int, ...] = tuple(range(a.dim()))
    else:
        axes = (0 if p.shared["nuslerp_row_wise"] else a.dim() - 1,)

    def along(y: Tensor) -> Tensor:
        return y.sum(axes, keepdim=True)

    norms = (along(a * a) * along(b * b)).sqrt()
    cosine = (along(a * b) / norms.where(norms > 0, 1.0)).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = angle.sin()
    first, second = ((1 - t) * angle).sin() / sine, (t * angle).sin() / sine
    straight = sine < 1e-6
    y = torch.where(straight, 1 - t, first) * a + torch.where(straight, t, second) * b
    return y if origin is None else origin + y


def multislerp(origin: Tensor | None, x: list[Tensor], p: Inputs) -> Tensor:
    v = [xi if origin is None else xi - origin for xi in x]
    w = p.weights()
    if p.shared["normalize_weights"]:
        w = [wi / sum(w) for wi in w]
    mean = sum(wi * vi / vi.norm() for wi, vi in zip(w, v, strict=True))
    y = sum(wi * vi.norm() for wi, vi in zip(w, v, strict=True)) * mean / mean.norm()
    return y if origin is None else origin + y


def karcher(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    a = [w / sum(p.weights()) for w in p.weights()]
    u = [xi / xi.norm() for xi in x]
    m = sum(ai * ui for ai, ui in zip(a, u, strict=True))
    m = m / m.norm()
    for _ in range(int(p.shared["max_iter"])):
        step = torch.zeros_like(m)
        for ai, ui in zip(a, u, strict=True):
            angle = torch.acos((ui * m).sum().clamp(-1, 1))
            if angle.sin() > 1e-5:
                step += ai * angle / angle.sin() * (ui - angle.cos() * m)
        if step.norm() < p.shared["tol"]:
            break
        m = step.norm().cos() * m + step.norm().sin() * step / step.norm()
    return sum(ai * xi.norm() for ai, xi in zip(a, x, strict=True)) * m


def model_stock(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    d, n = [xi - x0 for xi in x], len(x)
    axes = (-1,) if p.shared["filter_wise"] else tuple(range(x0.dim()))
    u = [di / torch.linalg.vector_norm(di, dim=axes, keepdim=True) for di in d]
    cosines = [(u[i] * u[j]).sum(axes, keepdim=True) for i in range(n) for j in range(i)]
    c = (sum(cosines) / len(cosines)).clamp(0, 1)
    return x0 + p.shared["lambda"] * n * c / (1 + (n - 1) * c) * sum(d) / n


def nearswap(base: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    return torch.maximum(torch.minimum(x[0], base + p.shared["t"]), base - p.shared["t"])


def arcee_fusion(base: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    q, r = (torch.softmax(y, -1) + 1e-8 for y in (x[0], base))
    importance = (x[0] - base).abs() * (q * (q / r).log()).sum(-1, keepdim=True)
    ranked = importance.flatten().sort().values
    q1, median, q3 = (ranked[int(f * (len(ranked) - 1))] for f in (0.25, 0.5, 0.75))
    return torch.where(importance >= median + p.shared["threshold"] * (q3 - q1), x[0], base)


def metagpt(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    d = [xi - x0 for xi in x]
    total = sum((di**2).sum() for di in d)
    return x0 + p.shared["lambda"] * sum((di**2).sum() / total * di for di in d)


def lm_cocktail(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = torch.softmax(-torch.tensor(p.numbers("loss")).double() / p.shared["temperature"], 0)
    return sum(wi * xi for wi, xi in zip(w, x, strict=True))


def mwa(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    w = [m ** float(p.shared["power"]) for m in p.numbers("metric")]
    return sum(wi * xi for wi, xi in zip(w, x, strict=True)) / sum(w)


def expo(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    mean = sum(x) / len(x)
    return mean + p.shared["alpha"] * (mean - x0)


def ram(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    d = torch.stack([xi - x0 for xi in x])
    active = d.abs() > p.shared["epsilon"]
    several, alone = active & (active.sum(0) > 1), active & (active.sum(0) == 1)
    scale = torch.ones(len(x), dtype=d.dtype)
    if "r" in p.shared:
        together, only = (m.flatten(1).sum(1).double() for m in (several, alone))
        share = together / only.clamp(min=max(p.shared["epsilon"], 1e-30))
        scale = 1 + p.shared["r"] * share.clamp(max=p.shared["alpha"])
    unique = d * alone * scale.view(-1, *[1] * x0.dim())
    return x0 + (unique + d * several / active.sum(0).clamp(min=1)).sum(0)


def layer_swap(x0: Tensor, x: list[Tensor], p: Inputs) -> Tensor:
    """Outside the layers, where the law suite's tensors lie."""
    share = {"ends": 0.0, "middle": 1.0, "mean": 0.5}[p.shared["outside"]]
    w = p.weights()
    middle = sum(wi * xi for wi, xi in zip(w, x, strict=True)) / sum(w)
    return share * middle + (1 - share) * sum(x) / len(x)


OUTSIDE = tuple({"outside": part, "ends": 0.7} for part in ("ends", "middle", "mean"))
FLAT = {"nuslerp_flatten": False}
ROWS = {
    "nuslerp": Row(nuslerp, 2, variants=({}, FLAT, FLAT | {"nuslerp_row_wise": True}), alone=False),
    "multislerp": Row(multislerp, variants=({}, {"normalize_weights": False})),
    "karcher": Row(karcher),
    "model_stock": Row(model_stock, variants=({}, {"filter_wise": True})),
    "nearswap": Row(nearswap, experts=1),
    "arcee_fusion": Row(arcee_fusion, experts=1, alone=False),
    "passthrough": Row(
        lambda x0, x, p: p.numbers("scale")[0] * x[0], experts=1, equal_base={"scale": 1.0}
    ),
    "layer_swap": Row(layer_swap, variants=OUTSIDE),
    "metagpt": Row(metagpt),
    "lm_cocktail": Row(lm_cocktail),
    "mwa": Row(mwa),
    "expo": Row(expo),
    "ram": Row(ram),
    "ramplus_tl": Row(ram),
}
