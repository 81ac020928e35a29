"""What candidates are compared by: their mean over the panel that all of them share.

Accuracies are blended with the probabilities that the model gave to the right answers. These say
more of each document than right or wrong does, but their mean is not quite the accuracy; how much
they may weigh follows from both errors, as in gp-IRT (Polo et al. 2024, arXiv:2402.14992, eq. 5).
"""

from dataclasses import dataclass

import numpy as np

from fitness.errors import FitnessError
from fitness.samples import Floats, References, Sample, Setting
from fitness.types import Metric


@dataclass(frozen=True)
class Ruler:
    """Compares the samples of one metric on one selection of documents.

    Args:
        metric: whose scores are compared.
        blend: weight of the scores in [0, 1]; the probabilities have the rest.
    """

    metric: Metric
    blend: float = 1.0

    def scores(self, sample: Sample) -> Floats:
        """(n,) what each document adds to the comparison; in [0, 1] where the metric's scores are.

        A document without a value counts as 0.
        """
        score: Floats = np.nan_to_num(sample.score)
        if self.blend == 1.0 or sample.soft is None:
            return score
        return np.asarray(self.blend * score + (1 - self.blend) * sample.soft)

    def value(self, sample: Sample) -> float:
        """The metric's unit, but off by what the choice of documents adds to every candidate.

        Raises:
            FitnessError: no document carries a value.
        """
        if self.blend < 1.0 and sample.soft is not None:
            return float(self.scores(sample).mean())
        if not sample.weight.sum() > 0:
            raise FitnessError(f"metric {self.metric.key}: no document carries a value")
        return self.metric.aggregate(float(sample.total.sum() / sample.weight.sum()), 0.0).value


def ruler(setting: Setting) -> Ruler:
    """The ruler of a metric, from the models that were scored in full.

    With d the difference between mean probability and mean score of a model, b^2 the variance of d
    over the references, and s^2, q^2 the variances of paired differences of scores and of
    probabilities, halved: blend = b^2 / (b^2 + (s^2 - q^2) (1 - n/N) / n). With all documents run
    it is 1.
    """
    references, n = setting.references, len(setting.selection)
    if references.soft is None or len(references) < 2 or not _accuracy(setting.metric, references):
        return Ruler(setting.metric)
    score, soft = references.score, references.soft
    bias = float((soft.mean(axis=1) - score.mean(axis=1)).var(ddof=1))
    excess = max(_paired_variance(score) - _paired_variance(soft), 0.0)
    noise = excess * (1 - n / setting.selection.n_documents) / n
    return Ruler(setting.metric, bias / (bias + noise) if noise > 0 else 1.0)


def _accuracy(metric: Metric, references: References) -> bool:
    """Whether scores are shares of right answers, which probabilities can stand in for."""
    score = references.score
    binary = bool(((score == 0) | (score == 1)).all())
    return metric.link == "mean" and metric.goal == "maximize" and binary


def _paired_variance(answers: Floats) -> float:
    """Half the variance over documents of two models' difference, averaged over pairs."""
    rows, columns = np.triu_indices(len(answers), 1)
    return float(np.mean((answers[rows] - answers[columns]).var(axis=1)) / 2)
