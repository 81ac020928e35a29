"""Which genes mattered: what sets the best candidates of an objective apart from all others."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial

from evoaim.ledger import Trial
from fitness.types import Objective
from search_spaces.genes import Value

FEWEST = 30  # trials; below, what is found is mostly chance
MOST = 600  # trials that are looked at, evenly spaced: below a second an objective
BEST = 0.2  # share of the trials that counts as good


@dataclass(frozen=True)
class GeneImportance:
    """How much every gene matters for being among the best, the largest first.

    Args:
        objective: its name.
        trials: how many were looked at.
        shares: gene -> share, of sum 1 over all genes.
    """

    objective: str
    trials: int
    shares: Mapping[str, float]


def gene_importances(
    objectives: Sequence[Objective], trials: Sequence[Trial]
) -> tuple[GeneImportance, ...]:
    """The importance of genes for every objective; () with fewer than `FEWEST` finished trials.

    By PED-ANOVA (arXiv:2304.10255, for conditional genes arXiv:2601.20800) as optuna has it: how
    far a gene's values among the best fifth are distributed otherwise than among all. It draws no
    random numbers. Failed trials are left out, and genes that never varied.

    Args:
        objectives: that are optimized.
        trials: of the run, in any state.
    """
    done = [t for t in trials if t.state == "done"]
    if len(done) < FEWEST:
        return ()
    done = done[:: math.ceil(len(done) / MOST)]
    kinds = _distributions(done)
    return tuple(_of_objective(o, done, kinds) for o in objectives) if kinds else ()


def _of_objective(
    objective: Objective, trials: Sequence[Trial], kinds: Mapping[str, BaseDistribution]
) -> GeneImportance:
    # imports scikit-learn: a second and 80 MB, which a search and its workers do without
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    level = optuna.logging.get_verbosity()  # the user's, put back
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        study = optuna.create_study(direction="minimize")
    finally:
        optuna.logging.set_verbosity(level)
    for trial in trials:
        active = {n: v for n, v in trial.genome.items() if n in kinds}
        study.add_trial(
            create_trial(
                params=active,
                distributions={n: kinds[n] for n in active},
                value=objective.loss(trial.estimates[objective.name].ranked),
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST)
        found = get_param_importances(study, evaluator=evaluator)
    shares = {n: float(v) if math.isfinite(v) else 0.0 for n, v in found.items()}
    ordered = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
    return GeneImportance(objective.name, len(trials), ordered)


def _distributions(trials: Sequence[Trial]) -> dict[str, BaseDistribution]:
    """Those of all genes that varied, over the values that they took."""
    values: dict[str, dict[Value, None]] = {}
    for trial in trials:
        for name, value in trial.genome.items():
            values.setdefault(name, {})[value] = None
    return {name: _distribution(list(known)) for name, known in values.items() if len(known) > 1}


def _distribution(values: Sequence[Value]) -> BaseDistribution:
    numbers = [v for v in values if not isinstance(v, str | bool)]
    if len(numbers) < len(values):
        return CategoricalDistribution(tuple(values))
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(min(numbers)), int(max(numbers)))
    return FloatDistribution(float(min(numbers)), float(max(numbers)))
