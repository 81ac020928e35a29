"""Mean weighted by what each document stands for, with an interval that knows the set is finite."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from fitness.errors import FitnessError
from fitness.estimators import Fitted
from fitness.samples import Floats, Sample, Setting
from fitness.sampling import design_stderr
from fitness.types import LINKS_OF_ALL, Estimate, Metric

PAPER = "Hájek 1971; strata: Cochran, Sampling Techniques (1977), eq. 5.4"
PANEL = "difficulty"
RANK: Literal["value", "panel"] = "panel"
REFERENCES = 0
LINKS = LINKS_OF_ALL


@dataclass(frozen=True)
class Params:
    """How many documents of each task are run; null takes all."""

    documents: Annotated[int, Ge(4)] | None = 60


def fit(setting: Setting, _params: Params) -> Fitted:
    """The estimator of one metric; nothing is fitted."""
    metric = setting.metric

    def estimate(sample: Sample) -> Estimate:
        return weighted_mean(sample, metric)

    return estimate


def weighted_mean(sample: Sample, metric: Metric) -> Estimate:
    """Ratio of the totals that the sample stands for: unbiased up to O(1/n).

    Raises:
        FitnessError: fewer than two documents carry a value.
    """
    share = sample.selection.design_weight
    present = sample.weight > 0
    if present.sum() < 2:
        raise FitnessError(
            f"metric {metric.key}: at least 2 documents with a value expected, got "
            f"{int(present.sum())}"
        )
    size = float((share * sample.weight).sum())
    ratio = float((share * sample.total).sum()) / size
    residual: Floats = (sample.total - ratio * sample.weight) / size
    return metric.aggregate(ratio, design_stderr(sample.selection, residual), int(present.sum()))
