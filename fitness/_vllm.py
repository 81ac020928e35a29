"""vLLM as the engine: how it is built, and the version-bound ways of bringing tensors into it.

vLLM is not run by this project's tests. Its scores differ from those of transformers in the last
digits, and a repetition penalty of the base's generation_config is not applied.
"""

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fitness._swap import Engine, Named, SwappableEngine
from fitness.errors import FitnessError

_BUCKET = 2**29  # bytes handed to the engine at once
# one process: tensors are handed over, not pickled, and requests keep their order; and kernels
# that give a request the same numbers whatever is batched with it
_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_BATCH_INVARIANT": "1"}


class Worker:
    """What vLLM adds to its workers (`worker_extension_cls`)."""

    model_runner: Any

    def load_named(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Copy checkpoint tensors into the model, which fuses and shards them itself."""
        self.model_runner.model.load_weights(tensors)


def hand_over(engine: Engine, tensors: Named) -> None:
    """Send tensors to the worker in this process, some at a time."""
    bucket: list[tuple[str, torch.Tensor]] = []
    for pair in tensors:
        bucket.append(pair)
        if sum(tensor.nbytes for _, tensor in bucket) >= _BUCKET:
            engine.collective_rpc("load_named", args=(bucket,))
            bucket = []
    engine.collective_rpc("load_named", args=(bucket,))


def through(folder: Path, engine: Engine, tensors: Named) -> None:
    """Send tensors in a file, for workers in other processes (`partial(through, folder)`)."""
    kept = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors}
    save_file(kept, folder / "model.safetensors")
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})


def open_engine(folder: Path, dtype: str, max_length: int | None = None) -> SwappableEngine:
    """An engine made from the base's folder, in this process.

    Raises:
        FitnessError: vLLM is not installed.
    """
    require_vllm()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # read when vLLM is imported
    from lm_eval.models.vllm_causallms import VLLM

    files = sorted(folder.glob("*.safetensors"))
    make = partial(
        VLLM,
        pretrained=str(folder),
        dtype=dtype,
        max_model_len=max_length,
        batch_size=2**20,  # vLLM batches itself; `auto` would print a progress bar
        worker_extension_cls=f"{__name__}.Worker",
    )
    stored = lambda: (pair for file in files for pair in load_file(file).items())  # noqa: E731
    return SwappableEngine(make, stored, hand_over)


def require_vllm() -> None:
    """Refuse where vLLM is absent.

    Raises:
        FitnessError: with what to install.
    """
    if find_spec("vllm") is None:
        raise FitnessError(
            "fitness.backend: vllm, but vLLM is not installed; "
            'pip install "evoaim[vllm]", or set backend: transformers'
        )
