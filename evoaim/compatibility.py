"""Whether an expert was fine-tuned from a base: architecture, tensors, shapes, vocabulary."""

import torch

from evoaim.checkpoint import Checkpoint
from evoaim.errors import ConfigError

# What a config says of the function that the weights compute without showing in their shapes.
_FUNCTION = ("num_attention_heads", "n_head", "num_key_value_heads", "hidden_act")


def check_compatible(base: Checkpoint, expert: Checkpoint) -> None:
    """Refuse an expert that was not fine-tuned from this base.

    Raises:
        ConfigError: architecture, tensor names, shapes or vocabulary differ; names the first one.
    """
    who = f"expert '{expert.name}' does not fit base '{base.name}'"
    ours, theirs = base.config.get("model_type"), expert.config.get("model_type")
    if ours != theirs:
        raise ConfigError(f"{who}: architecture '{theirs}', base has '{ours}'")
    for key in _FUNCTION:
        a, b = base.config.get(key), expert.config.get(key)
        if a is not None and b is not None and a != b:
            raise ConfigError(f"{who}: its config.json has {key} {b!r}, base has {a!r}")
    heads = (_optional_head(base) if base.tied else set()) | (
        _optional_head(expert) if base.tied else set()
    )
    for key, shape in base.shapes.items():
        if key not in expert.shapes and key not in heads:
            raise ConfigError(f"{who}: tensor '{key}' is missing in the expert")
        if key in expert.shapes and expert.shapes[key] != shape:
            hint = "; its vocabulary has another size" if "embed" in key or "lm_head" in key else ""
            raise ConfigError(
                f"{who}: tensor '{key}' has shape {list(expert.shapes[key])}, "
                f"base has {list(shape)}{hint}"
            )
    extra = sorted(k for k in expert.shapes if k not in base.shapes and k not in heads)
    if extra:
        raise ConfigError(f"{who}: tensor '{extra[0]}' does not exist in the base")
    _check_vocabulary(base, expert, who)


def _check_vocabulary(base: Checkpoint, expert: Checkpoint, who: str) -> None:
    ours, theirs = base.vocabulary, expert.vocabulary
    if ours is None or theirs is None or ours == theirs:
        return
    token = next(t for t in {**ours, **theirs} if ours.get(t) != theirs.get(t))
    raise ConfigError(
        f"{who}: token {token!r} has id {theirs.get(token)} in the expert and {ours.get(token)} in "
        "the base; models with different vocabularies cannot be merged"
    )


def _optional_head(model: Checkpoint) -> set[str]:
    """Names of a stored output head that tying makes redundant (equal to the embedding)."""
    heads = [k for k in model.shapes if k.endswith(("lm_head.weight", "embed_out.weight"))]
    for head in heads:
        twins = [k for k in model.shapes if "embed" in k or ".wte." in k or k == "wte.weight"]
        twins = [k for k in twins if k != head and model.shapes[k] == model.shapes[head]]
        if twins and not torch.equal(model.tensor(head), model.tensor(twins[0])):
            raise ConfigError(
                f"model '{model.name}': has an output head '{head}' of its own, but its (or its "
                f"base's) config.json ties the head to '{twins[0]}'; untied heads need "
                "tie_word_embeddings: false in all models"
            )
    return set(heads)
