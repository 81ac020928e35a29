"""Update rules: one formula per element, written once, run as machine code and as tensor code.

An update rule is a function `f(s, w, a, p, j)` in plain arithmetic:

* `s[i, j]`: element j of expert i's masked and rescaled delta;
* `w[i]`: its weight; `len(w)`: the number of experts, known when the rule is compiled;
* `a[i, j]`: element j of the mix's i-th further tensor; `p[i]`: its i-th scalar; `a[X0, j]`: x0.

On the CPU numba compiles it for scalars: j is an index. Elsewhere torch runs it on tensors: j
selects everything. So it may only use + - * /, comparisons, & | ~, abs(), and the functions
`where` and `zero` of this module; constants are np.float32 and stand on the right; no branches on
data (they would not vectorize), loops only over experts. A divisor must visibly not be zero, as in
`y / where(v == ZERO, ONE, v)`: machine code that must check for it does not vectorize either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload, register_jitable

Rule = Callable[[Any, Any, Any, Any, Any], Any]
ZERO, ONE = np.float32(0), np.float32(1)


@dataclass(frozen=True)
class Update:
    """An update rule that the kernel can run; made by `update`."""

    rule: Rule
    name: str
    stamp: int  # of its code: compiled rules are kept on disk under it


def update(rule: Rule) -> Update:
    """Make a function `f(s, w, a, p, j)` an update rule; see the module."""
    return Update(part(rule), rule.__qualname__, crc32(_code(rule)))


def part(function: Any) -> Any:
    """Make a function one that update rules may call."""
    return register_jitable(forceinline=True)(function)  # a call left over does not vectorize


def _code(function: Any) -> bytes:
    """What a function compiles to: its code, and that of the functions it names."""
    code = function.__code__
    constants = [c for c in code.co_consts if not isinstance(c, CodeType)]  # those print addresses
    text = f"{function.__module__}.{function.__qualname__}{constants}{code.co_names}"
    named = (function.__globals__.get(n) for n in code.co_names)
    inner = (_code(f) for f in named if isinstance(f, FunctionType) and f is not function)
    return b"".join([code.co_code, text.encode(), *inner])


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`, both computed."""
    numbers = [x if isinstance(x, torch.Tensor) else float(x) for x in (a, b)]
    return torch.where(condition, *numbers)


@intrinsic
def _select(_context: Any, _condition: Any, _a: Any, _b: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return types.float32(types.boolean, types.float32, types.float32), generate


@overload(where)
def _where(condition, a, b):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return lambda condition, a, b: _select(condition, a, b)


def zero(like: Any) -> Any:
    """0, in the shape of `like`."""
    return torch.zeros_like(like)


@overload(zero)
def _zero(like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return lambda like: ZERO  # noqa: ARG005


@update
def total(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """sum_i w_i s_i"""
    y = s[0, j] * w[0]
    for i in range(1, len(w)):
        y = y + s[i, j] * w[i]
    return y


@update
def elected(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """Sum of the v_i = w_i s_i whose sign is that of their sum; a sum of zero elects +."""
    vote = s[0, j] * w[0]
    for i in range(1, len(w)):
        vote = vote + s[i, j] * w[i]
    sign = where(vote >= ZERO, ONE, -ONE)
    y = zero(vote)
    for i in range(len(w)):
        v = s[i, j] * w[i] * sign
        y = y + where(v > ZERO, v, ZERO)
    return y * sign


@update
def elected_mean(s: Any, w: Any, a: Any, p: Any, j: Any) -> Any:  # noqa: ARG001
    """`elected`, divided by the sum of the weights that agree."""
    vote = s[0, j] * w[0]
    for i in range(1, len(w)):
        vote = vote + s[i, j] * w[i]
    sign = where(vote >= ZERO, ONE, -ONE)
    y, weight = zero(vote), zero(vote)
    for i in range(len(w)):
        v = s[i, j] * w[i] * sign
        y = y + where(v > ZERO, v, ZERO)
        weight = weight + where(v > ZERO, w[i], ZERO)
    return y * sign / where(weight == ZERO, ONE, weight)
