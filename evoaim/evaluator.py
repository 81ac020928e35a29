"""Genome -> recipe -> live model -> per-document scores -> estimates: the way of one candidate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evoaim import calibration, informed
from evoaim.checkpoint import Weights
from evoaim.config import Experiment
from evoaim.engine import MergeEngine
from evoaim.errors import CandidateError
from evoaim.importance import Importance
from evoaim.kernel import BASE
from evoaim.live import load_tokenizer
from evoaim.methods import facts
from fitness.errors import ScoringError
from fitness.harness import Harness
from fitness.objectives import ObjectiveSpec, estimate_objectives, resolve
from fitness.panel import random_panel
from fitness.types import Estimate, HarnessConfig, Objective, Panel, Scores, Split
from search_spaces.build import Layout, build_space
from search_spaces.recipe import Recipe, Source
from search_spaces.space import Models, SearchSpace


@dataclass(frozen=True)
class Evaluator:
    """Everything that scoring a candidate needs, built once per search."""

    experiment: Experiment
    space: SearchSpace
    engine: MergeEngine
    harness: Harness
    objectives: tuple[Objective, ...]
    panels: Mapping[Split, Panel]
    blocks: tuple[torch.Tensor, ...]  # calibration tokens; () without calibration text

    @classmethod
    def of(cls, experiment: Experiment) -> "Evaluator":
        """Load models, tasks and texts of an experiment; writes nothing.

        Raises:
            ConfigError, SpaceError, FitnessError: whatever in the experiment does not fit.
        """
        models = experiment.models
        engine = MergeEngine.from_pretrained(
            models.base, models.experts, models.device, models.dtype, None, models.placement
        )
        config = experiment.search_space
        space = replace(
            build_space(
                config.block(),
                Layout(config.layer_groups, tuple(config.module_types)),
                facts,
                Models(models.base, models.experts),
                engine.anatomy,
            ),
            seed=experiment.seed,
        )
        tokenizer = load_tokenizer(engine.base)
        harness = _harness(experiment, tokenizer)
        objectives = tuple(
            resolve(ObjectiveSpec(o.name, tuple(o.tasks), o.metric, o.goal), harness)
            for o in experiment.objectives
        )
        blocks: list[torch.Tensor] = []
        if experiment.calibration is not None:
            text = calibration.read_texts(
                experiment.calibration.data, experiment.calibration.documents
            )
            blocks = calibration.token_blocks(tokenizer, text, experiment.calibration.block_size)
            calibration.check_context(engine.live, blocks)
        informed.check_text([m.name for m in space.methods], blocks)
        panels = _panels(experiment, harness, objectives)
        return cls(experiment, space, engine, harness, objectives, panels, tuple(blocks))

    def calibrated(self, measured: Path | None = None) -> "Evaluator":
        """The same with the base's importance: from a file, the cache, or measured now.

        To be called while the live model still holds the base's weights.

        Args:
            measured: where the importance of this run was saved when it began, if it was.
        """
        if not self.blocks:
            return self
        if measured is not None and measured.exists():
            importance = Importance.load(measured)
        else:
            importance = calibration.importance_of(self.engine.base, self.engine.live, self.blocks)
        return replace(self, engine=self.engine.with_importance(importance))

    def informed(self, folder: Path | None = None, like: Recipe | None = None) -> "Evaluator":
        """The same with the statistics on text that merge methods need: read, or measured now.

        Args:
            folder: where those of this run are kept.
            like: a recipe whose method is meant, or whose files; None: the space's methods.
        """
        if like is not None and like.statistics:
            engine = replace(self.engine, merger=self.engine.merger.with_statistics_of(like))
            return replace(self, engine=engine)
        methods = [like.merge_method] if like is not None else [m.name for m in self.space.methods]
        informed.check_text(methods, self.blocks)
        models = {BASE if n == "base" else n: recipe for n, recipe in self.parents().items()}
        engine = informed.with_statistics(self.engine, models, methods, self.blocks, folder)
        return replace(self, engine=engine)

    def stored(self, recipe: Recipe, run: str) -> Recipe:
        """A recipe as a file of the run in folder `run`, whose files it names: it stands alone."""
        aim = recipe.aim
        if aim is not None:
            aim = replace(aim, importance=f"{run}/importance.safetensors")
        models, method = self.experiment.models, recipe.merge_method
        paths = {BASE: models.base, **models.experts}
        files = {
            path: f"{run}/statistics/{informed.file_name(key)}"
            for key, path in paths.items()
            if informed.kinds_needed([method], key)
        }
        return replace(recipe, aim=aim, statistics=files)

    def parents(self) -> dict[str, Recipe]:
        """Base and experts as recipes, by name."""
        models = self.experiment.models
        named = {"base": models.base, **models.experts}
        return {n: Recipe("linear", (Source(m, {"weight": 1.0}),)) for n, m in named.items()}

    def models(self) -> dict[str, Weights]:
        """Base and experts by name."""
        return {"base": self.engine.base, **self.engine.experts}

    def score(self, recipe: Recipe, split: Split) -> Scores:
        """Per-document scores of a recipe on the "search" or "report" panel.

        Raises:
            CandidateError: non-finite weights or answers, or out of memory at batch size 1.
        """
        try:
            with self.engine.materialize(recipe) as model:
                return self.harness.score(model, self.panels[split], split)
        except torch.OutOfMemoryError:
            raise CandidateError("out of memory (scoring was tried down to batch size 1)") from None
        except ScoringError as error:
            raise CandidateError(str(error)) from None

    def estimate(self, scores: Scores) -> dict[str, Estimate]:
        """One estimate per objective, by name."""
        estimator, _ = self.experiment.plugin("estimator")
        return estimate_objectives(scores, self.objectives, estimator)


def _harness(experiment: Experiment, tokenizer: Any) -> Harness:
    f = experiment.fitness
    return Harness.load(
        HarnessConfig(
            tasks=tuple(dict.fromkeys(t for o in experiment.objectives for t in o.tasks)),
            task_path=Path(f.task_path) if f.task_path else None,
            num_fewshot=f.num_fewshot,
            chat_template=f.chat_template,
            batch_size=f.batch_size,
            max_gen_toks=f.max_gen_toks,
            allow_unsafe_code=f.allow_unsafe_code,
            seed=experiment.seed,
        ),
        tokenizer,
    )


def _panels(
    experiment: Experiment, harness: Harness, objectives: tuple[Objective, ...]
) -> dict[Split, Panel]:
    """The estimator's panel of search documents, and (a sample of) the report documents."""
    tasks = dict.fromkeys(m.task for o in objectives for m in o.metrics)
    estimator, params = experiment.plugin("estimator")
    search = {t: len(harness.documents(t, "search")) for t in tasks}
    report = Panel({})
    for t in tasks:
        n = len(harness.documents(t, "report"))
        report |= random_panel(
            {t: n}, min(n, experiment.fitness.report_documents or n), experiment.seed
        )
    return {"search": estimator.panel(search, params, experiment.seed), "report": report}
