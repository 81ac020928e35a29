"""What an experiment scores: its scorers, its objectives, and the documents that it may use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from evoaim.config import Experiment
from evoaim.distance import DistanceToBase
from evoaim.engine import MergeEngine
from evoaim.fitness_config import WEIGHTS
from evoaim.live import generation_config
from fitness.harness import Harness
from fitness.objectives import ObjectiveSpec, resolve
from fitness.panel import random_panel
from fitness.scheme import Pool
from fitness.scorers import Scorer, Scorers
from fitness.texts import KL, TextConfig, TextHarness
from fitness.types import HarnessConfig, Objective, Panel, Split
from search_spaces.recipe import Recipe, Source

Opening = Callable[[], None]


def open_scorers(
    experiment: Experiment, engine: MergeEngine, tokenizer: Any
) -> tuple[Scorers, list[Opening]]:
    """Scorers of all objectives, and what must be done before they score, which takes a model.

    Raises:
        FitnessError: a task or a text that cannot be scored.
    """
    f, objectives = experiment.fitness, experiment.objectives
    tasks = tuple(dict.fromkeys(t for o in objectives for t in o.tasks))
    texts = tuple(dict.fromkeys(o.text for o in objectives if o.text is not None))
    scorers: list[Scorer] = []
    openings: list[Opening] = []
    if tasks:
        config = HarnessConfig(
            tasks=tasks,
            task_path=Path(f.task_path) if f.task_path else None,
            num_fewshot=f.num_fewshot,
            chat_template=f.chat_template,
            backend=f.backend,
            batch_size=f.batch_size,
            max_gen_toks=f.max_gen_toks,
            allow_unsafe_code=f.allow_unsafe_code,
            seed=experiment.seed,
        )
        generation = generation_config(engine.base)
        scorers.append(harness := Harness.load(config, tokenizer, generation))
        if f.backend == "vllm":
            openings.append(partial(_serve, harness, experiment, engine))
    if texts:
        size = 64 if f.batch_size == "auto" else f.batch_size
        scorers.append(
            read := TextHarness.load(TextConfig(texts, size, seed=experiment.seed), tokenizer)
        )
        openings.append(partial(_refer, read, experiment, engine))
    if any(o.scored_on == (WEIGHTS,) for o in objectives):
        scorers.append(DistanceToBase.of(engine))
    return Scorers(scorers), openings


def open_objectives(experiment: Experiment, scorer: Scorer) -> tuple[Objective, ...]:
    """The objectives with their metrics found.

    Raises:
        FitnessError: an unknown task or metric.
    """
    return tuple(
        resolve(ObjectiveSpec(o.name, o.scored_on, o.metric, o.goal), scorer)
        for o in experiment.objectives
    )


def document_panels(
    experiment: Experiment, scorer: Scorer, objectives: Sequence[Objective]
) -> dict[Split, Panel]:
    """The documents of either split that an experiment may use: all, or as many as it says."""
    f = experiment.fitness
    limits: dict[Split, int | None] = {"search": f.search_limit, "report": f.report_documents}
    tasks = dict.fromkeys(m.task for o in objectives for m in o.metrics)
    found: dict[Split, Panel] = {}
    for split, limit in limits.items():
        panel = Panel({})
        for task in tasks:
            n = len(scorer.documents(task, split))
            take = n if limit is None or is_whole(experiment, task) else min(n, limit)
            panel |= random_panel({task: n}, take, experiment.seed)
        found[split] = panel
    return found


def pools(experiment: Experiment, scorer: Scorers, panel: Panel) -> dict[str, Pool]:
    """The search documents by task, with what a stratified panel needs to know of them."""
    _, params = experiment.fitness.plan(experiment.seed).selector
    by = getattr(params, "by", None)
    found = {}
    for task, positions in panel.documents.items():
        hashes = scorer.documents(task, "search")
        labels = None
        if by is not None and not is_whole(experiment, task):
            every = scorer.labels(task, "search", by)
            labels = tuple(every[p] for p in positions)
        documents = tuple(hashes[p] for p in positions)
        found[task] = Pool(positions, documents, is_whole(experiment, task), labels)
    return found


def is_whole(experiment: Experiment, task: str) -> bool:
    """Whether every candidate is scored on all of its documents: texts, and figures of weights."""
    return task == WEIGHTS or any(o.text == task for o in experiment.objectives)


def alone(model: str) -> Recipe:
    """The recipe that gives a model back."""
    return Recipe("linear", (Source(model, {"weight": 1.0}),))


def _serve(harness: Harness, experiment: Experiment, engine: MergeEngine) -> None:
    """Let an inference engine answer, which is given every candidate's weights."""
    from fitness._vllm import open_engine  # needs an extra

    def tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
        parameters = dict(model.named_parameters())
        for key, place in engine.merger.blueprint.places.items():
            yield key, place.view(parameters[place.parameter])

    harness.serve(open_engine(engine.base.folder, experiment.models.dtype), tensors)


def _refer(texts: TextHarness, experiment: Experiment, engine: MergeEngine) -> None:
    """Keep the base's predictions on the texts whose divergence from them is asked for."""
    files = {o.text for o in experiment.objectives if o.metric == KL}
    sizes: Mapping[Split, Mapping[str, int]] = {
        "search": texts.sizes("search"),
        "report": texts.sizes("report"),
    }
    for split, of in sizes.items():
        own = {t: tuple(range(n)) for t, n in of.items() if t in files}
        if own:
            with engine.materialize(alone(engine.base.name)) as base:
                texts.reference(base, Panel(own), split)
