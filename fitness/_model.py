"""Requests to a live model, through lm-eval's own HFLM (or its VLLM)."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from fitness._bank import Prepared
from fitness.errors import FitnessError, ScoringError


def encode(lm: Any, instance: Instance) -> Any:
    """What does not depend on the weights: token ids of a request (generation: None).

    Raises:
        FitnessError: an answer without tokens, or longer than the model's context.
    """
    if instance.request_type == "loglikelihood":
        return _pair(lm, instance)
    if instance.request_type == "loglikelihood_rolling":
        return lm.tok_encode(instance.args[0])
    return None


def _pair(lm: Any, instance: Instance) -> tuple[tuple[str, str], list[int], list[int]]:
    # as TemplateLM.loglikelihood does; an empty context becomes the prefix token
    context, answer = instance.args[:2]
    if context:
        before, after = lm._encode_pair(context, answer)
    else:
        before, after = [lm.prefix_token_id], lm.tok_encode(answer, add_special_tokens=False)
        if after[:1] == before:
            after = after[1:]
    if not 0 < len(after) <= lm.max_length:
        raise FitnessError(
            f"task '{instance.task_name}', document {instance.doc_id}: the answer {answer!r} adds "
            f"{len(after)} tokens to its prompt (1 to {lm.max_length} expected); with none, the "
            "answer may need a leading space (doc_to_target, target_delimiter)"
        )
    return (context, answer), before, after


def respond(lm: Any, documents: Iterable[Prepared]) -> None:
    """Fill `resps` of every instance, one call of the model per request type over all tasks.

    Raises:
        FitnessError: a task generates more tokens than the model's context holds.
        ScoringError: a log-likelihood is not a number.
    """
    queues: dict[str, list[tuple[Instance, Any]]] = defaultdict(list)
    for document in documents:
        for instance, tokens in zip(document.instances, document.tokens, strict=True):
            instance.resps, instance.filtered_resps = [], {}
            queues[instance.request_type] += [(instance, tokens)] * instance.repeats
    for kind, queue in queues.items():
        tokens = [t for _, t in queue]
        if kind == "loglikelihood":
            answers = lm._loglikelihood_tokens(tokens, disable_tqdm=True)
            _refuse_nan(ll for ll, _ in answers)
        elif kind == "loglikelihood_rolling":
            own = isinstance(lm, HFLM)  # others cut texts into windows of other lengths
            rolled = [i for i, _ in queue]
            answers = _rolling(lm, tokens) if own else lm.loglikelihood_rolling(rolled, True)
            _refuse_nan(answers)
        else:
            answers = _generate(lm, [i for i, _ in queue])
        for (instance, _), answer in zip(queue, answers, strict=True):
            instance.resps.append(answer)


def _refuse_nan(values: Iterable[float]) -> None:
    if any(math.isnan(v) for v in values):
        raise ScoringError("the model's log-likelihoods are not numbers (NaN)")


def _rolling(lm: HFLM, texts: list[list[int]]) -> list[float]:
    # HFLM.loglikelihood_rolling from token ids: same windows, same batches, without progress bars
    windows: list[tuple[None, list[int], list[int]]] = []
    counts = []
    for text in texts:
        cut = get_rolling_token_windows(text, lm.prefix_token_id, lm.max_length, 1)
        own = [(None, *make_disjoint_window(window)) for window in cut]
        windows += own
        counts.append(len(own))
    size = lm.batch_size
    parts = iter(
        [
            ll
            for start in range(0, len(windows), size)
            for ll, _ in lm._loglikelihood_tokens(windows[start : start + size], disable_tqdm=True)
        ]
    )
    return [sum(next(parts) for _ in range(count)) for count in counts]


def _generate(lm: Any, instances: list[Instance]) -> list[str]:
    for instance in instances:
        asked = normalize_gen_kwargs(instance.args[1], lm.max_gen_toks)["max_gen_toks"]
        if asked >= lm.max_length:
            raise FitnessError(
                f"task '{instance.task_name}' generates up to {asked} tokens, the model's context "
                f"holds {lm.max_length}; set fitness.max_gen_toks lower"
            )
    answers: list[str] = lm.generate_until(instances, disable_tqdm=True)
    return answers
