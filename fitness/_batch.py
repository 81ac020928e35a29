"""How many sequences go through the model at once when the user leaves it to us.

The number is chosen once, for the first panel that is scored, and only ever gets smaller, because
in bfloat16 a log-likelihood moves by up to 0.03 with the sequences beside it and the padding they
cause: between candidates, such a difference must come from the weights alone.
"""

from collections.abc import Iterable

import torch
from lm_eval.models.huggingface import HFLM

from fitness._bank import Prepared

MOST = 256  # beyond, a forward pass gains nothing
_ELSEWHERE = 2**31  # bytes for logits on devices that cannot be asked, and do not say no in time


def first_size(lm: HFLM, documents: Iterable[Prepared]) -> int:
    """A power of two whose logits fit into memory at the length of the longest request.

    Nothing is tried here: lm-eval runs the longest requests first, so that a size that is still too
    large shows in the first batch.
    """
    length = max(
        (_positions(t, lm.max_length) for d in documents for t in d.tokens if t is not None),
        default=1,  # generation keeps the logits of one position
    )
    vocabulary = lm.model.config.get_text_config().vocab_size
    return fitting(length, vocabulary, _memory(lm.device))


def fitting(length: int, vocabulary: int, memory: float) -> int:
    """The largest power of two of sequences, up to `MOST`, whose logits take at most `memory`.

    Args:
        length: tokens of a sequence.
        vocabulary: logits per token, counted as float32, and as many log-probabilities.
        memory: bytes.
    """
    fits = int(memory // (8 * length * vocabulary))
    return min(MOST, 1 << max(0, fits.bit_length() - 1))


def _positions(tokens: tuple[object, list[int], list[int]] | list[int], most: int) -> int:
    """Tokens of an encoded request (see `_model.encode`) that enter the model."""
    count = len(tokens[1]) + len(tokens[2]) - 1 if isinstance(tokens, tuple) else len(tokens)
    return min(count, most)


def _memory(device: torch.device) -> float:
    """Bytes that logits may take; the rest of what is free is left to activations."""
    return 0.5 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _ELSEWHERE
