"""Merge methods: each module here is one method, named as its file and as mergekit names it.

A module declares

* `PAPER`: where the method comes from;
* `PARAMETERS`: name -> `search_spaces.parameters.Parameter`, the only place where a parameter's
  meaning, default and range are written down;
* `BASE`: what the recipe's base model is to the method: "delta" (experts are seen as differences
  to it), "endpoint" (it is one of the two models interpolated), "none" (just another model, if
  listed);
* `MAX_EXPERTS`: how many models besides the base it takes at most; None: any number;
* `mix(tensor, inputs) -> Mix`: what the streaming kernel shall do to one tensor, from statistics
  that do not depend on the candidate. It must be cheap: it runs per tensor and candidate.

Laws (tests/test_methods.py): a lone expert at the identity settings comes out unchanged; experts
equal to the base give the base; everything is finite; the kernel equals a plain reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evoaim.kernel import Mix, Term
from evoaim.registry import METHODS
from search_spaces.parameters import Setting
from search_spaces.space import MethodFacts

BaseRole = Literal["delta", "endpoint", "none"]


@dataclass(frozen=True)
class Inputs:
    """The settings of one tensor: models by key, parameters resolved for this tensor."""

    base: str | None  # the recipe's base model
    experts: tuple[str, ...]  # the other models, in the recipe's order
    own: Mapping[str, Mapping[str, Setting]]  # model -> per-model parameters
    shared: Mapping[str, Setting]  # the other parameters
    seed: int  # of random masks

    def weights(self) -> list[float]:
        """The parameter `weight` of every expert."""
        return [float(self.own[e]["weight"]) for e in self.experts]


def facts(name: str) -> MethodFacts:
    """A method's declaration, as search spaces need it.

    Raises:
        ConfigError: there is no such method.
    """
    method = METHODS[name]
    return MethodFacts(name, method.PARAMETERS, method.MAX_EXPERTS)


def combination(coefficients: Mapping[str, float]) -> Mix:
    """The mix for `sum_m c_m x_m` over whole models m (not deltas)."""
    terms = tuple(Term(m, c) for m, c in coefficients.items() if c != 0.0)
    return Mix(terms, base=sum(coefficients.values()))


def weighted_sum(terms: tuple[Term, ...], inputs: Inputs) -> Mix:
    """The mix for `x0 + lambda * sum_i w_i s_i [/ sum_i w_i]`, normalised where asked."""
    total = sum(t.weight for t in terms)
    divisor = total if inputs.shared["normalize"] and abs(total) >= 1e-8 else 1.0
    return Mix(terms, scale=float(inputs.shared["lambda"]) / divisor)


def elected(terms: tuple[Term, ...], inputs: Inputs) -> Mix:
    """The mix with TIES' sign election, a disjoint mean where `normalize` is set."""
    return Mix(
        terms,
        scale=float(inputs.shared["lambda"]),
        vote=True,
        mean=bool(inputs.shared["normalize"]),
    )
