"""Layer stacking (data-flow space): a path through the layers of several models, as a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from search_spaces.anatomy import Anatomy
from search_spaces.errors import SpaceError
from search_spaces.recipe import Recipe
from search_spaces.settings import Spec
from search_spaces.slices import Slice, SliceSource

# The weights through which a layer writes to the residual stream, over the architectures of
# transformers; substrings of tensor names, so they can be written into a recipe as filters.
WRITERS = (
    ".o_proj",
    ".down_proj",
    ".c_proj",
    ".dense.",
    ".dense_4h_to_h",
    ".out_proj",
    ".fc2",
    ".fc_out",
    ".w2",
)
# A norm after the writers would undo their scale.
_NORMED_OUTPUTS = ("post_feedforward", "post_mlp_layernorm", "post_self_attn")


@dataclass(frozen=True)
class Slot:
    """One layer of the path; `scale` is what the residual stream is multiplied by on entering."""

    model: str
    layer: int
    scale: float = 1.0


def stack(slots: Sequence[Slot], anatomy: Anatomy, base_model: str | None = None) -> Recipe:
    """The recipe that runs through the slots in order; Akiba et al., arXiv:2403.13187.

    The embedding is the first slot's model's, the final norm and the head the last one's. Scales
    are folded into the weights: with c the product of all scales up to and with a slot, dividing
    what the slot's layer writes to the stream by c is the same as scaling the stream, because
    each layer, and the head, reads the stream through a norm (exact up to the norm's epsilon).

    Args:
        slots: at least one.
        anatomy: of every model.
        base_model: of the recipe; nothing is taken from it.

    Raises:
        SpaceError: no slot, a layer that does not exist, a scale that is not positive, scales in
            an architecture whose layers norm what they write or write by unknown names.
    """
    if not slots:
        raise SpaceError("a path needs at least one slot")
    for slot in slots:
        if not 0 <= slot.layer < anatomy.n_layers:
            raise SpaceError(
                f"'{slot.model}' has layers 0 to {anatomy.n_layers - 1}, got {slot.layer}"
            )
        if not 0 < slot.scale < float("inf"):
            raise SpaceError(f"a scale must be positive and finite, got {slot.scale!r}")
    writers = _writers(anatomy) if any(s.scale != 1 for s in slots) else ()
    products = accumulate((s.scale for s in slots), lambda c, scale: c * scale)
    slices: list[SliceSource] = []
    factors: list[float] = []
    for slot, product in zip(slots, products, strict=True):
        start, parameters = slot.layer, _scaled(writers, product)
        if slices and factors[-1] == product:
            last = slices[-1]
            if (last.model, last.layer_range[1]) == (slot.model, slot.layer):
                start = slices.pop().layer_range[0]
        slices.append(SliceSource(slot.model, (start, slot.layer + 1), parameters))
        factors.append(product)
    return Recipe(
        merge_method="passthrough",
        models=(),
        base_model=base_model,
        slices=tuple(Slice((source,)) for source in slices),
    )


def _scaled(writers: tuple[str, ...], product: float) -> dict[str, Spec]:
    if product == 1:
        return {}
    entries = [{"filter": w, "value": 1 / product} for w in writers]
    return {"scale": [*entries, {"value": 1.0}]}


def _writers(anatomy: Anatomy) -> tuple[str, ...]:
    inside = [(layer, t) for t in anatomy.tensors if (layer := anatomy.layer(t)) is not None]
    for tensor in anatomy.tensors:
        if any(norm in tensor for norm in _NORMED_OUTPUTS):
            raise SpaceError(
                f"this architecture norms what its layers write ('{tensor}'), so scales cannot be "
                "folded into the weights; leave them at 1"
            )
    found = tuple(w for w in WRITERS if any(w in t for _, t in inside))
    silent = set(range(anatomy.n_layers)) - {
        layer for layer, t in inside if any(w in t for w in found)
    }
    if silent:
        raise SpaceError(
            f"layer {min(silent)} of this architecture writes to the residual stream by none of "
            f"the known names ({', '.join(WRITERS)}); leave the scales at 1"
        )
    return found
