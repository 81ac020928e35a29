"""Greedy soup (arXiv:2203.05482): average the best models as long as a score improves.

A recipe to start a search from, and a baseline: it has no hyper-parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evoaim.errors import ConfigError
from search_spaces.recipe import Recipe, Source


@dataclass(frozen=True)
class Soup:
    """The uniform average of some models.

    Args:
        members: the models by name, in the order in which they came in.
        score: of the average.
        alone: every model's own score, the best first.
    """

    members: tuple[str, ...]
    score: float
    alone: Mapping[str, float] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the average."""
        return averaged(self.members)


def averaged(models: Sequence[str]) -> Recipe:
    """The recipe of a uniform average of models."""
    return Recipe("linear", tuple(Source(m, {"weight": 1.0}) for m in models))


def greedy_soup(models: Sequence[str], score: Callable[[Recipe], float]) -> Soup:
    """Go through the models from the best on and keep each that improves the average.

    With a soup of k models the next candidate is `(k * soup + x) / (k + 1)`.

    Args:
        models: by any name that recipes may use.
        score: of a recipe on held-out data, larger is better; called 2 * len(models) - 1 times.

    Raises:
        ConfigError: there are no models, or one is listed twice.
    """
    if not models or len(set(models)) != len(models):
        raise ConfigError(f"greedy soup: at least one model, each once, expected, got {[*models]}")
    alone = {m: score(averaged([m])) for m in models}
    ranked = sorted(models, key=lambda m: -alone[m])
    members, best = [ranked[0]], alone[ranked[0]]
    for model in ranked[1:]:
        found = score(averaged([*members, model]))
        if found > best:
            members, best = [*members, model], found
    return Soup(tuple(members), best, {m: alone[m] for m in ranked})
