"""mergekit's ways to do a recipe, AIM aside (it has none); None where it lacks the method."""

import tempfile
from collections.abc import Callable

import torch

from evoaim.live import quiet
from evoaim.merger import Merger
from evoaim.registry import METHODS
from search_spaces import strict_yaml
from search_spaces.recipe import Recipe


def in_memory(recipe: Recipe, merger: Merger) -> Callable[[], None] | None:
    """Its in-memory merge of tensors that are loaded already: its best case."""
    try:
        from mergekit.merge_methods.api import merge_state_dicts
        from mergekit.merge_methods.registry import registered_methods
    except ImportError:
        return None
    if recipe.merge_method not in {m.spec.name for m in registered_methods()}:
        return None
    keys = {w.name: m for m, w in merger.models.items()}
    names = [s.model for s in recipe.models]
    named = [*([recipe.base_model] if recipe.base_model else []), *names]
    states = {n: {k: merger.store.host(keys[n], k) for k in merger.blueprint.places} for n in named}
    declared = METHODS[recipe.merge_method].PARAMETERS
    first = recipe.models[0].parameters
    own = {
        p: {s.model: s.parameters[p] for s in recipe.models}
        for p, d in declared.items()
        if d.per_model and p in first and _known(p, recipe.merge_method)
    }
    shared = {p: v for p, v in recipe.parameters.items() if _known(p, recipe.merge_method)}
    base = {"base": recipe.base_model} if recipe.base_model else {}

    def run() -> None:
        merge_state_dicts(
            states,
            recipe.merge_method,
            parameters={**own, **shared},
            dtype=torch.bfloat16,
            **base,
        )

    return run


def to_disk(recipe: Recipe, merger: Merger) -> Callable[[], None] | None:
    """Its merge into a folder, loaded back, as tools without an engine evaluate candidates."""
    if in_memory(recipe, merger) is None:
        return None
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoModelForCausalLM

    data = recipe.to_mergekit() | {"dtype": "bfloat16"}
    config = MergeConfiguration.model_validate(strict_yaml.parse(strict_yaml.dump(data), "recipe"))

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, quiet():
            run_merge(config, folder, MergeOptions(copy_tokenizer=False, quiet=True))
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    return run


def _known(parameter: str, method: str) -> bool:
    """Whether mergekit's method has a parameter of ours."""
    from mergekit.merge_methods.registry import get

    return parameter in {p.name for p in get(method).spec.parameters}
