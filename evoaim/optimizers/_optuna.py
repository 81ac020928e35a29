"""Any optuna sampler as a proposer, over a private in-memory study."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from evoaim.optimizers import Documents, Losses, Violations, ranked_violations
from evoaim.optimizers._cube import UnitCube
from search_spaces.genes import Gene, Genome, Real, Value, Whole, canonical

_UNIFORM_DRAWS = 500  # for one genome that was not asked before


class OptunaProposer:
    """An optuna sampler that suggests genes one after the other, `batch` genomes an ask.

    It suggests those of `suggested` that are active: the space's genes, or for samplers that know
    no conditions the `unconditional` ones. No genome is asked twice: after `draws` repeated ones
    of the sampler, which can settle on one (a method without parameters, say), one is drawn
    uniformly. When that finds no new genome either, the search is finished.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        suggested: Sequence[Gene],
        study: Study,
        batch: int,
        draws: int,
        seed: int,
    ) -> None:
        self._cube = UnitCube(genes)
        self._suggested = tuple(suggested)
        self._study = study
        self._batch = batch
        self._draws = draws
        self._rng = np.random.default_rng(seed)
        self._trials: list[Trial] = []  # of the last ask
        self._worst = np.full(len(study.directions), -np.inf)  # losses so far

    def ask(self) -> list[Genome]:
        """The next batch; shorter, in the end empty, when the sampler finds no new genomes."""
        self._trials = []
        genomes: list[Genome] = []
        while len(genomes) < self._batch and (genome := self._draw()) is not None:
            genomes.append(genome)
        return genomes

    def tell(
        self,
        losses: Losses,
        violations: Violations | None = None,
        documents: Documents | None = None,  # noqa: ARG002 (for those that learn from them)
    ) -> None:
        """One row (n_objectives,) per genome of the last ask; see `Proposer.tell`.

        Samplers ignore failed trials and so go on proposing what fails. To them, failed candidates
        are the farthest from feasible, with the worst losses that were seen.
        """
        ranked = ranked_violations(losses, violations)
        failed = np.isinf(ranked)
        self._worst = np.vstack([self._worst, losses[~failed]]).max(axis=0)
        made_up = np.where(np.isfinite(self._worst), self._worst, 0.0)
        rows = np.where(failed[:, None], made_up, losses)
        for trial, row, violation in zip(self._trials, rows, ranked, strict=True):
            trial.set_constraint("violation", _bounded(violation))
            self._study.tell(trial, row.tolist())

    def _draw(self) -> Genome | None:
        for _ in range(self._draws):
            trial = self._study.ask()
            genome = self._suggest(trial)
            if self._take(trial, genome):
                return genome
            self._study.tell(trial, state=TrialState.FAIL)  # repetitions teach nothing
        for point in self._rng.random((_UNIFORM_DRAWS, len(self._cube.genes))):
            if self._cube.key(point) not in self._cube.asked:
                self._study.enqueue_trial(dict(self._cube.genome(point)))
                trial = self._study.ask()
                genome = self._suggest(trial)
                self._take(trial, genome)
                return genome
        return None

    def _take(self, trial: Trial, genome: Genome) -> bool:
        key = tuple(genome.items())
        if key in self._cube.asked:
            return False
        self._cube.asked.add(key)
        self._trials.append(trial)
        return True

    def _suggest(self, trial: Trial) -> Genome:
        trial.relative_params  # noqa: B018 (gives also an enqueued trial its generation)
        values: dict[str, Value] = {}
        for gene in self._suggested:
            if gene.when is None or values.get(gene.when.gene) in gene.when.values:
                values[gene.name] = gene.snap(_suggest(trial, gene))
        return canonical(self._cube.genes, values)


def unconditional(genes: Sequence[Gene]) -> list[Gene]:
    """The genes, each active in every genome."""
    return [replace(gene, when=None) for gene in genes]


def distribution(gene: Gene) -> BaseDistribution:
    """The optuna distribution that holds every value of a gene.

    It is without the gene's step: optuna's own grid may end below `high`, which a gene can take.
    """
    if isinstance(gene, Real):
        return FloatDistribution(gene.low, gene.high, log=gene.log)
    if isinstance(gene, Whole):
        return IntDistribution(gene.low, gene.high)
    return CategoricalDistribution(gene.options)


def _suggest(trial: Trial, gene: Gene) -> Value:
    # From the gene's `distribution`, in the only form that optuna offers for conditional genes.
    if isinstance(gene, Real):
        return trial.suggest_float(gene.name, gene.low, gene.high, log=gene.log)
    if isinstance(gene, Whole):
        return trial.suggest_int(gene.name, gene.low, gene.high)
    return cast(Value, trial.suggest_categorical(gene.name, gene.options))


def new_study(
    genes: Sequence[Gene], n_objectives: int, sampler: BaseSampler, first: Sequence[Genome]
) -> Study:
    """A study in memory that tries the genomes of `first`, each once.

    Its creation, the only thing that this bridge would log, is not logged.
    """
    level = optuna.logging.get_verbosity()  # the user's, put back
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_objectives)
    finally:
        optuna.logging.set_verbosity(level)
    for genome in dict.fromkeys(tuple(canonical(genes, genome).items()) for genome in first):
        study.enqueue_trial(dict(genome))
    return study


def _bounded(violation: float) -> float:
    # In the same order, from -1 (feasible) to 2 (failed), since a model is fitted to it
    if violation <= 0:
        return -1.0
    return 2.0 if np.isinf(violation) else violation / (1 + violation)
