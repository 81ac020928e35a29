"""Any optuna sampler as a proposer, over a private in-memory study."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from evoaim.optimizers import Losses, Violations, ranked_violations
from search_spaces.genes import Gene, Genome, Real, Value, Whole, canonical

_DRAWS = 10  # of the sampler, for one genome that was not asked before
_RANDOM_DRAWS = 500  # after those


class OptunaProposer:
    """An optuna sampler that suggests the active genes one after the other, `batch` genomes an ask.

    No genome is asked twice: a repeated one is drawn again, at last uniformly, since a model can
    settle on one genome (a method without parameters, say). When that finds no new genome either,
    the search is finished.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        n_objectives: int,
        sampler: BaseSampler,
        batch: int,
        seed: int,
        initial: Sequence[Genome],
    ) -> None:
        self._genes = tuple(genes)
        self._study = _silent_study(n_objectives, sampler)
        self._samplers = [(sampler, _DRAWS), (RandomSampler(seed=seed), _RANDOM_DRAWS)]
        self._batch = batch
        self._asked: set[tuple[tuple[str, Value], ...]] = set()
        self._trials: list[Trial] = []  # of the last ask
        for genome in initial:
            self._study.enqueue_trial(canonical(genes, genome))

    def ask(self) -> list[Genome]:
        """The next batch; shorter, in the end empty, when the sampler finds no new genomes."""
        self._trials = []
        genomes: list[Genome] = []
        while len(genomes) < self._batch and (genome := self._draw()) is not None:
            genomes.append(genome)
        return genomes

    def tell(self, losses: Losses, violations: Violations | None = None) -> None:
        """One row (n_objectives,) per genome of the last ask; see `Proposer.tell`."""
        constraint = ranked_violations(losses, violations)
        for trial, row, violation in zip(self._trials, losses, constraint, strict=True):
            # TPE ranks pruned trials before infeasible ones, unless they are infeasible themselves
            trial.set_constraint("violation", violation)
            if np.isfinite(violation):
                self._study.tell(trial, row.tolist())
            else:
                # Samplers ignore failed trials and so go on proposing what fails
                self._study.tell(trial, state=TrialState.PRUNED)

    def _draw(self) -> Genome | None:
        for sampler, n_draws in self._samplers:
            self._study.sampler = sampler
            for _ in range(n_draws):
                trial = self._study.ask()
                genome = self._suggest(trial)
                key = tuple(genome.items())
                if key not in self._asked:
                    self._asked.add(key)
                    self._trials.append(trial)
                    return genome
                self._study.tell(trial, state=TrialState.FAIL)  # repetitions teach nothing
        return None

    def _suggest(self, trial: Trial) -> dict[str, Value]:
        genome: dict[str, Value] = {}
        for gene in self._genes:
            if gene.when is None or genome.get(gene.when.gene) in gene.when.values:
                genome[gene.name] = gene.snap(_suggest(trial, gene))
        return genome


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


def _silent_study(n_objectives: int, sampler: BaseSampler) -> Study:
    # The only message of this whole bridge is the one at creation; the user's level is put back.
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        return optuna.create_study(sampler=sampler, directions=["minimize"] * n_objectives)
    finally:
        optuna.logging.set_verbosity(level)
