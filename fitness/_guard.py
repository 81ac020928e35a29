"""Keep third parties in their room: global random states, logs, progress bars, warnings."""

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import datasets.utils
import huggingface_hub.utils
import lm_eval.utils
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

_NOISY = (
    "lm_eval",
    "datasets",
    "transformers",
    "huggingface_hub",
    "accelerate",
    "evaluate",
    "vllm",
)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run lm-eval quietly and reproducibly, and leave the process as it was.

    Inside the block the global generators start as `simple_evaluate` starts them, so that tasks
    and models which draw from them draw the same for every candidate.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states())
        stack.enter_context(_silence())
        stack.enter_context(_compiled_templates())
        yield


def reseed(python: int, legacy: int) -> None:
    """Seed the global generators of Python and NumPy, which some tasks' own functions draw from."""
    random.seed(python)
    np.random.seed(legacy)  # noqa: NPY002 tasks use it


@contextmanager
def _random_states() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 the one to protect
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    try:
        with torch.random.fork_rng(devices=devices):
            reseed(DEFAULT_RANDOM_SEED, DEFAULT_OTHER_SEED)
            torch.default_generator.manual_seed(DEFAULT_OTHER_SEED)
            if devices:
                torch.cuda.manual_seed_all(DEFAULT_OTHER_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    libraries = (datasets.utils, huggingface_hub.utils)
    bars = [library for library in libraries if not library.are_progress_bars_disabled()]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for library in bars:
            library.disable_progress_bars()
        with warnings.catch_warnings():
            for name in _NOISY:
                warnings.filterwarnings("ignore", module=rf"{name}\b")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for library in bars:
            library.enable_progress_bars()


@contextmanager
def _compiled_templates() -> Iterator[None]:
    # lm-eval compiles a task's Jinja template anew for every document and every candidate (about
    # 1 ms, more than a small model's forward pass); the compiled template is the same each time.
    environment = lm_eval.utils.env
    environment.from_string = _compile
    try:
        yield
    finally:
        del environment.from_string


_compile = lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)
