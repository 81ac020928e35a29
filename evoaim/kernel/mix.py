"""What the kernel does to one tensor, as data: masks, terms, an update rule, broadcast fields."""

from dataclasses import dataclass

from torch import Tensor

from evoaim.kernel.updates import Update, total

BASE = ""  # key of the base among the models: no expert can be named so


@dataclass(frozen=True)
class Largest:
    """Keep the elements whose |d| is above `threshold`, or equal to it up to index `last`.

    `last` makes the count exact when magnitudes are equal: the first ones in index order stay.
    """

    threshold: float
    last: int


@dataclass(frozen=True)
class Band:
    """Keep what `outer` keeps and `inner`, its largest elements, does not."""

    outer: Largest
    inner: Largest


@dataclass(frozen=True)
class Coin:
    """Keep an element if its hash, uniform on [0, 2^32), is below `below`: masks are nested."""

    key: int  # 64 bits
    below: int


@dataclass(frozen=True, eq=False)
class RankCoin:
    """Keep an element with probability `low + (high - low) * rank`; rank in [0, 1] is stored.

    Args:
        key: 64 bits, of the hash.
        ranks: (*s) uint8 in 255ths.
        low, high: probabilities at rank 0 and 1.
        unbiased: kept elements are divided by their probability.
    """

    key: int
    ranks: Tensor
    low: float
    high: float
    unbiased: bool = False


@dataclass(frozen=True, eq=False)
class Bits:
    """Keep the elements where a prepared mask (*s) bool is set."""

    mask: Tensor


Keep = Largest | Band | Coin | RankCoin | Bits


@dataclass(frozen=True, eq=False)
class Term:
    """One expert's share: weight w, rescale factor r of its masked delta, mask, and a factor.

    `factor` is float32 and broadcastable to the tensor: one number a column, a row, or all.
    """

    model: str
    weight: float
    rescale: float = 1.0
    keep: Keep | None = None
    factor: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Mix:
    """The recipe of one tensor; see the formula in `evoaim.kernel`.

    Args:
        terms: the experts that take part; the base itself is none of them.
        base: coefficient b of x0.
        scale: factor of the update.
        update: how the masked deltas are combined, per element; 0 without terms and aux.
        aux: further tensors that the update reads, broadcastable to the tensor.
        scalars: further numbers that the update reads.
    """

    terms: tuple[Term, ...]
    base: float = 1.0
    scale: float = 1.0
    update: Update = total
    aux: tuple[Tensor, ...] = ()
    scalars: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Relax:
    """AIM's last step: the update is multiplied by `1 - strength * importance`.

    Args:
        importance: float32 in [0, 1], broadcastable to the tensor.
        strength: 1 - omega.
    """

    importance: Tensor
    strength: float
