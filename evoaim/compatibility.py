"""Whether an expert was fine-tuned from a base, and whether a model's weights are numbers."""

import torch

from evoaim.blueprint import Blueprint
from evoaim.checkpoint import Checkpoint, Weights
from evoaim.errors import ConfigError
from evoaim.vocabulary import vocabulary_keys

# What a config says of the function that the weights compute without showing in their shapes.
_FUNCTION = ("num_attention_heads", "n_head", "num_key_value_heads", "hidden_act")

_ADVICE = (
    "`evoaim merge` merges such models with tokenizer_source: union (or base) in the recipe; a "
    "search needs experts with the base's vocabulary"
)


def check_compatible(base: Checkpoint, expert: Weights, aligned: bool = False) -> None:
    """Refuse an expert that was not fine-tuned from this base.

    Args:
        base: the base.
        expert: the expert as it is stored.
        aligned: vocabularies will be aligned, so they may differ.

    Raises:
        ConfigError: architecture, tensor names, shapes or vocabulary differ; names the first one.
    """
    who = f"expert '{expert.name}' does not fit base '{base.name}'"
    kinds = base.config.get("model_type"), expert.config.get("model_type")
    if kinds[0] != kinds[1]:
        raise ConfigError(f"{who}: architecture '{kinds[1]}', base has '{kinds[0]}'")
    for key in _FUNCTION:
        a, b = base.config.get(key), expert.config.get(key)
        if a is not None and b is not None and a != b:
            raise ConfigError(f"{who}: its config.json has {key} {b!r}, base has {a!r}")
    heads = _optional_head(base) | _optional_head(expert) if base.tied else set()
    ours, theirs = base.shapes, expert.shapes
    excused = heads | (vocabulary_keys(base) & vocabulary_keys(expert) if aligned else set())
    differing = [k for k in ours if ours[k] != theirs.get(k) and k not in excused]
    for key in differing and sorted(set(differing) - _copied(base)):
        if key not in theirs:
            raise ConfigError(f"{who}: tensor '{key}' is missing in the expert")
        hint = (
            f"; its vocabulary has another size: {_ADVICE}"
            if "embed" in key or "lm_head" in key
            else ""
        )
        raise ConfigError(
            f"{who}: tensor '{key}' has shape {list(theirs[key])}, base has {list(ours[key])}{hint}"
        )
    extra = [k for k in theirs if k not in ours and k not in heads]
    for key in extra and sorted(set(extra) - _copied(expert)):
        raise ConfigError(f"{who}: tensor '{key}' does not exist in the base")
    if not aligned:
        _check_vocabulary(base, expert, who)


def non_finite(model: Weights, key: str) -> str | None:
    """What to tell the user of a tensor with values that are no finite numbers; None: it is fine.

    For when a merge is not finite and one wants to know whose fault that is.
    """
    tensor = model.tensor(key)
    wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
    if not wrong:
        return None
    what = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
    file = model.shards[key].name if isinstance(model, Checkpoint) else str(model.folder)
    return (
        f"model '{model.name}': tensor '{key}' in {file} has {wrong} of {tensor.numel()} values "
        f"that are {what}; it was damaged or diverged in training, take another checkpoint"
    )


def _copied(model: Weights) -> frozenset[str]:
    """Names of tensors that are not merged: buffers, and what the architecture does not use."""
    if not isinstance(model, Checkpoint):
        return frozenset()
    try:
        return frozenset(Blueprint.of(model).copied)
    except ConfigError:  # then nothing excuses a difference, which has the clearer message
        return frozenset()


def _check_vocabulary(base: Checkpoint, expert: Weights, who: str) -> None:
    ours, theirs = base.vocabulary, expert.vocabulary
    if ours is None or theirs is None or ours == theirs:
        return
    token = next(t for t in {**ours, **theirs} if ours.get(t) != theirs.get(t))
    raise ConfigError(
        f"{who}: token {token!r} has id {theirs.get(token)} in the expert and {ours.get(token)} in "
        f"the base: {_ADVICE}"
    )


def _optional_head(model: Weights) -> set[str]:
    """Names of a stored output head that tying makes redundant (equal to the embedding)."""
    heads = [k for k in model.shapes if k.endswith(("lm_head.weight", "embed_out.weight"))]
    for head in heads:
        twins = [k for k in model.shapes if "embed" in k or ".wte." in k or k == "wte.weight"]
        twins = [k for k in twins if k != head and model.shapes[k] == model.shapes[head]]
        stored = isinstance(model, Checkpoint)  # an adapter's head follows its embedding
        if stored and twins and not torch.equal(model.tensor(head), model.tensor(twins[0])):
            raise ConfigError(
                f"model '{model.name}': has an output head '{head}' of its own, but its (or its "
                f"base's) config.json ties the head to '{twins[0]}'; untied heads need "
                "tie_word_embeddings: false in all models"
            )
    return set(heads)
