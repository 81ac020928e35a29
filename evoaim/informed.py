"""The statistics on text that merge methods need: measured once per model when a search starts."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from evoaim.calibration import statistics_of
from evoaim.data_statistics import KINDS, DataStatistics
from evoaim.engine import MergeEngine
from evoaim.errors import ConfigError
from evoaim.kernel import BASE
from evoaim.methods import needs
from search_spaces.recipe import Recipe


def kinds_needed(methods: Iterable[str], model: str) -> tuple[str, ...]:
    """What these methods need of a model (BASE or an expert), in the order of KINDS."""
    wanted = {kind for method in methods for kind in needs(method, model)}
    return tuple(kind for kind in KINDS if kind in wanted)


def check_text(methods: Sequence[str], blocks: Sequence[Tensor]) -> None:
    """Refuse methods that need statistics where there is no text to measure them on.

    Raises:
        ConfigError: there is none.
    """
    needy = [m for m in methods if kinds_needed([m], "") or kinds_needed([m], "expert")]
    if needy and not blocks:
        raise ConfigError(
            f"calibration: the merge method '{needy[0]}' needs statistics on text; give "
            "calibration: {data: FILE.jsonl}"
        )


def with_statistics(
    engine: MergeEngine,
    models: Mapping[str, Recipe],
    methods: Sequence[str],
    blocks: Sequence[Tensor],
    folder: Path | None,
) -> MergeEngine:
    """The engine with the statistics that methods need, of all models on the same text.

    Args:
        engine: its live model is overwritten with one model after the other.
        models: key (BASE or a short name) -> a recipe that gives this model.
        methods: merge methods.
        blocks: token ids, (n, block) each.
        folder: where the files of a run lie, by `file_name`; missing ones are put there.

    Raises:
        ConfigError: see `evoaim.calibration.statistics_of`.
    """
    found = {}
    for model, recipe in models.items():
        kinds = kinds_needed(methods, model)
        if not kinds:
            continue
        kept = folder / file_name(model) if folder is not None else None
        if kept is not None:
            with suppress(ConfigError):  # not there, or damaged: measured (again)
                found[model] = DataStatistics.open(kept)
                continue
        merger = engine.merger
        with engine.materialize(recipe) as live:
            blueprint, weights = merger.blueprint, merger.models[model]
            found[model] = statistics_of(weights, live, blueprint, blocks, kinds)
        if kept is not None:
            _link(found[model].path, kept)
    if not found:
        return engine
    return replace(engine, merger=engine.merger.with_statistics(found))


def file_name(model: str) -> str:
    """Name of the file with a model's statistics in the folder of a run."""
    return f"{'base' if model == BASE else model}.safetensors"


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system cannot."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise ConfigError(f"statistics '{target}': cannot be written ({error})") from None
