"""A worker's inside: an evaluator on its own device, wherever the process or actor runs."""

import os
import traceback
from dataclasses import replace
from typing import Any

import torch

from evoaim.config import Experiment
from evoaim.errors import USER_ERRORS
from evoaim.evaluator import Evaluator
from evoaim.run_dir import RunDir
from evoaim.work import Answer, Job, perform


class Host:
    """Opened once, prepared once, then given jobs."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None

    def open(self, experiment: Experiment, slot: int, n: int) -> str:
        """Load models, tasks and texts; returns the device.

        Args:
            experiment: what is searched.
            slot: of this worker, from 0; CUDA devices are taken in turn.
            n: workers on this machine, which share its cores.

        Raises:
            ConfigError, SpaceError, FitnessError: something cannot be loaded.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (cores or 1) // n)))
        models = replace(experiment.models, device=_device(experiment.models.device, slot))
        self._evaluator = Evaluator.of(replace(experiment, models=models))
        self._evaluator.engine.live  # noqa: B018 (loaded now)
        return str(self._evaluator.engine.merger.device)

    def prepare(self, run: RunDir) -> None:
        """See `evoaim.work.Workers`."""
        assert self._evaluator is not None
        self._evaluator = self._evaluator.ready(run.importance, run.statistics)

    def perform(self, job: Job) -> Answer:
        """Do a job."""
        assert self._evaluator is not None
        return perform(self._evaluator, job)


def reply(host: Host, kind: str, what: Any) -> tuple[str, Any]:
    """Do what a worker was sent: "open" (with its arguments), "prepare" or "perform".

    Returns:
        That and what came of it, or "refused" and an error of the user's, or "crashed" and a text.
    """
    try:
        if kind == "open":
            return kind, host.open(*what)
        if kind == "prepare":
            host.prepare(what)
            return kind, None
        return kind, host.perform(what)
    except USER_ERRORS as error:
        return "refused", error
    except Exception:  # the search must hear of it, whatever it is
        return "crashed", traceback.format_exc()


def _device(name: str, slot: int) -> str:
    """The device of a worker: the named one, or its own of those there are."""
    n = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{slot % n}" if n else name
