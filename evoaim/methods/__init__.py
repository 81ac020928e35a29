"""Merge methods: each module here is one method, named as its file and as mergekit names it.

A module declares

* `PAPER`: where the method comes from;
* `PARAMETERS`: name -> `search_spaces.parameters.Parameter`, the only place where a parameter's
  meaning, default and range are written down;
* `BASE`: what the recipe's base model is to the method: "delta" (experts are seen as differences
  to it), "endpoint" (it is one of the two models interpolated), "none" (just another model, if
  listed), "optional" (experts are seen as differences to it, if it is given), "point" (if given,
  it is one more of the models);
* `EXPERTS`: the least and the largest number of models besides the base; None: no limit;
* `mix(tensor, inputs) -> Mix`: what the streaming kernel shall do to one tensor, from statistics
  that do not depend on the candidate. It must be cheap: it runs per tensor and candidate.

It may declare

* `NEEDS`, `BASE_NEEDS`: the statistics on text that it takes of every expert, and of the base (see
  `evoaim.data_statistics`);
* `PREPARES`: how many copies of the model, in the checkpoint's dtype, it keeps from candidate to
  candidate, as (whatever the number of experts, further ones for each expert).

Laws (tests/test_methods.py): a lone expert at the identity settings comes out unchanged; experts
equal to the base give the base; everything is finite; the kernel equals a plain reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evoaim.kernel import BASE, Mix, Term, elected, elected_mean
from evoaim.registry import METHODS
from search_spaces.parameters import Setting
from search_spaces.space import MethodFacts

BaseRole = Literal["delta", "endpoint", "none", "optional", "point"]


@dataclass(frozen=True)
class Inputs:
    """The settings of one tensor: models by key, parameters resolved for this tensor."""

    base: str | None  # the recipe's base model
    experts: tuple[str, ...]  # the other models, in the recipe's order
    own: Mapping[str, Mapping[str, Setting]]  # model -> per-model parameters
    shared: Mapping[str, Setting]  # the other parameters
    seed: int  # of random masks
    layer: int | None = None  # decoder block of the tensor; None: outside of them
    n_layers: int = 1

    def weights(self) -> list[float]:
        """The parameter `weight` of every expert."""
        return self.numbers("weight")

    def numbers(self, parameter: str) -> list[float]:
        """A numeric per-model parameter of every expert."""
        return [float(self.own[e][parameter]) for e in self.experts]


def facts(name: str) -> MethodFacts:
    """A method's declaration, as search spaces need it.

    Raises:
        ConfigError: there is no such method.
    """
    method = METHODS[name]
    return MethodFacts(name, method.PARAMETERS, method.EXPERTS[1])


def needs(name: str, model: str) -> tuple[str, ...]:
    """The kinds of statistics on text that a method takes of a model (BASE or an expert)."""
    return tuple(getattr(METHODS[name], "BASE_NEEDS" if model == BASE else "NEEDS", ()))


def prepares(name: str, experts: int) -> float:
    """Copies of the model, in the checkpoint's dtype, that a method keeps between candidates."""
    once, each = getattr(METHODS[name], "PREPARES", (0.0, 0.0))
    return float(once + each * experts)


def combination(coefficients: Mapping[str, float]) -> Mix:
    """The mix for `sum_m c_m x_m` over whole models m (not deltas), the base among them."""
    terms = tuple(Term(m, c) for m, c in coefficients.items() if c != 0.0 and m != BASE)
    return Mix(terms, base=sum(coefficients.values()))


def weighted_sum(terms: Sequence[Term], inputs: Inputs) -> Mix:
    """The mix for `x0 + lambda * sum_i w_i s_i [/ sum_i w_i]`, normalised where asked."""
    total = sum(t.weight for t in terms)
    divisor = total if inputs.shared["normalize"] and abs(total) >= 1e-8 else 1.0
    return Mix(_taking_part(terms), scale=float(inputs.shared["lambda"]) / divisor)


def election(terms: Sequence[Term], inputs: Inputs) -> Mix:
    """The mix with TIES' sign election, a disjoint mean where `normalize` is set."""
    rule = elected_mean if inputs.shared["normalize"] else elected
    return Mix(_taking_part(terms), scale=float(inputs.shared["lambda"]), update=rule)


def _taking_part(terms: Sequence[Term]) -> tuple[Term, ...]:
    return tuple(t for t in terms if t.weight != 0.0)
