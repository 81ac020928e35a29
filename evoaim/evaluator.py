"""Genome -> recipe -> live model -> per-document scores -> estimates: the way of one candidate."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from evoaim import calibration, informed
from evoaim.checkpoint import Weights
from evoaim.config import Experiment
from evoaim.engine import MergeEngine
from evoaim.errors import CandidateError
from evoaim.importance import Importance
from evoaim.kernel import BASE
from evoaim.live import load_tokenizer, model_config
from evoaim.scoring import Opening, alone, document_panels, open_objectives, open_scorers, pools
from evoaim.spaces import space_of
from fitness.errors import ScoringError
from fitness.objectives import estimate_objectives
from fitness.responses import join
from fitness.scheme import Plan, Scheme, build, check
from fitness.scorers import Scorers
from fitness.types import Estimate, Objective, Panel, Scores, Split
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace

Enough = Callable[[Scores], bool]


def never(_scores: Scores) -> bool:
    """Every panel is scored."""
    return False


@dataclass(frozen=True)
class Evaluator:
    """Everything that scoring a candidate needs, built once per search."""

    experiment: Experiment
    space: SearchSpace
    engine: MergeEngine
    scorer: Scorers
    objectives: tuple[Objective, ...]
    documents: Mapping[Split, Panel]  # that may be used
    blocks: tuple[torch.Tensor, ...]  # calibration tokens; () without calibration text
    openings: list[Opening] = field(default_factory=list)  # to be done before the first score

    @classmethod
    def of(cls, experiment: Experiment) -> "Evaluator":
        """Open models, tasks and texts of an experiment; writes nothing.

        The live model is loaded when something is first scored or measured.

        Raises:
            ConfigError, SpaceError, FitnessError: whatever in the experiment does not fit.
        """
        models = experiment.models
        engine = MergeEngine.opened(
            models.base, models.experts, models.device, models.dtype, models.placement
        )
        space = space_of(engine, experiment.search_space, experiment.seed)
        tokenizer = load_tokenizer(engine.base)
        scorer, openings = open_scorers(experiment, engine, tokenizer)
        objectives = open_objectives(experiment, scorer)
        blocks: list[torch.Tensor] = []
        if experiment.calibration is not None:
            text = calibration.read_texts(
                experiment.calibration.data, experiment.calibration.documents
            )
            blocks = calibration.token_blocks(tokenizer, text, experiment.calibration.block_size)
            calibration.check_context(model_config(engine.base), blocks)
        informed.check_text([m.name for m in space.methods], blocks)
        documents = document_panels(experiment, scorer, objectives)
        return cls(
            experiment, space, engine, scorer, objectives, documents, tuple(blocks), openings
        )

    @classmethod
    def at_a_desk(cls, experiment: Experiment) -> "Evaluator":
        """One that scores nothing itself: files are mapped, no device is used.

        Raises:
            ConfigError, SpaceError, FitnessError: as `of`.
        """
        models = replace(experiment.models, device="cpu", placement="mapped")
        return replace(cls.of(replace(experiment, models=models)), experiment=experiment)

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

    def ready(self, measured: Path, folder: Path) -> "Evaluator":
        """The same with importance and statistics, from the files of a run or measured for them.

        Args:
            measured: the importance.
            folder: the statistics.
        """
        ready = self.calibrated(measured)
        if ready.engine.importance is not None and not measured.exists():
            ready.engine.importance.save(measured)
        return ready.informed(folder)

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
        return {name: alone(model) for name, model in named.items()}

    def models(self) -> dict[str, Weights]:
        """Base and experts by name."""
        return {"base": self.engine.base, **self.engine.experts}

    def plan(self) -> Plan:
        """How the search's documents are chosen and what follows from them."""
        return self.experiment.fitness.plan(self.experiment.seed)

    def check(self, reused: int) -> None:
        """Refuse a plan that cannot work out, before anything is scored.

        Args:
            reused: how many models of earlier runs are known besides base and experts.

        Raises:
            FitnessError: too few documents, or too few models for the panel or the estimator.
        """
        found = pools(self.experiment, self.scorer, self.documents["search"])
        check(self.objectives, found, self.plan(), len(self.parents()), reused)

    def scheme(self, models: Mapping[str, Scores], parents: int) -> Scheme:
        """What every candidate is put through.

        Args:
            models: name -> scores on all search documents, base and experts first; empty if the
                scheme needs none.
            parents: how many of them are base and experts.

        Raises:
            FitnessError: too few documents, or too few models for the panel or the estimator.
        """
        found = pools(self.experiment, self.scorer, self.documents["search"])
        return build(self.objectives, found, models, parents, self.plan())

    def score(
        self, recipe: Recipe, split: Split, panels: Iterable[Panel] = (), enough: Enough = never
    ) -> Scores:
        """Per-document scores of a recipe on some documents.

        Args:
            recipe: is materialized once.
            split: which documents.
            panels: scored one after the other; none: all that may be used.
            enough: is given the scores after each panel; True ends the scoring.

        Raises:
            CandidateError: non-finite weights or answers, or out of memory at batch size 1.
        """
        while self.openings:
            self.openings.pop()()
        scores: Scores = {}
        try:
            with self.engine.materialize(recipe) as model:
                self.scorer.renew(model)
                for panel in panels or (self.documents[split],):
                    scores = join(scores, self.scorer.score(model, panel, split))
                    if enough(scores):
                        break
        except torch.OutOfMemoryError:
            raise CandidateError("out of memory (scoring was tried down to batch size 1)") from None
        except ScoringError as error:
            raise CandidateError(str(error)) from None
        return scores

    def report(self, scores: Scores) -> dict[str, Estimate]:
        """One estimate per objective from scores on the report documents, by name."""
        return estimate_objectives(scores, self.objectives)
