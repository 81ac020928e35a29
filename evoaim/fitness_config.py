"""The part of an experiment file that says how candidates are scored."""

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked

from evoaim.errors import ConfigError
from evoaim.plugins import plugin
from evoaim.registry import ESTIMATORS, SELECTORS
from fitness.racing import Rule
from fitness.scheme import Plan

_STRICT = ConfigDict(extra="forbid")
Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Lt(1)]
WEIGHTS = "weights"  # the task of figures of the merged weights themselves
DISTANCE = "distance_to_base"
SOME = 400  # documents of a task that tell a finalist's accuracy to two points or so


@checked(frozen=True, config=_STRICT)
class ObjectiveConfig:
    """A named objective: one metric of tasks (their mean), of a text file, or of the weights."""

    name: str
    tasks: list[str] = field(default_factory=list)
    text: str | None = None
    metric: str | None = None
    goal: Literal["maximize", "minimize", "watch"] | None = None

    def check(self) -> None:
        """What types cannot say.

        Raises:
            ConfigError: not exactly one of tasks, a text file, and a figure of the weights.
        """
        where = f"objectives.{self.name}"
        if self.metric == DISTANCE and not self.tasks and self.text is None:
            return
        if bool(self.tasks) == (self.text is not None):
            raise ConfigError(
                f"{where}.tasks: at least one task expected, or text: FILE, or metric: {DISTANCE}"
                if not self.tasks
                else f"{where}: has both tasks and text; make two objectives of them"
            )

    @property
    def scored_on(self) -> tuple[str, ...]:
        """Names that the scorers know: tasks, the text file, or the weights."""
        if self.tasks:
            return tuple(self.tasks)
        return (WEIGHTS,) if self.text is None else (self.text,)


@checked(frozen=True, config=_STRICT)
class RacingConfig:
    """When a candidate is dropped: looks are shares of the panel."""

    kind: Literal["pocock", "strict"] = "pocock"
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    looks: list[Share] = field(default_factory=lambda: [0.34, 0.67])

    def rule(self) -> Rule:
        """The rule that decides.

        Raises:
            ConfigError: looks that do not increase.
        """
        if not self.looks or list(self.looks) != sorted(set(self.looks)):
            raise ConfigError(
                "fitness.racing.looks: increasing shares of the panel expected, such as "
                f"[0.34, 0.67], got {self.looks}"
            )
        return Rule(self.kind, self.alpha, tuple(self.looks))


@checked(frozen=True, config=_STRICT)
class PromotionConfig:
    """Who is scored on more documents: share of the documents spent so, and finalists."""

    share: Annotated[float, Ge(0), Le(1)] = 0.1
    finalists: Positive = 16


@checked(frozen=True, config=_STRICT)
class FitnessConfig:
    """How candidates are scored."""

    task_path: str | None = None
    estimator: dict[str, Any] = field(default_factory=lambda: {"kind": "greg"})
    panel: dict[str, Any] | None = None
    racing: RacingConfig | bool | None = None
    promotion: PromotionConfig | bool | None = None
    search_documents: Annotated[int, Ge(2)] | Literal["auto", "all"] = "auto"
    num_fewshot: Annotated[int, Ge(0)] | None = None
    chat_template: Literal["auto", "yes", "no"] = "auto"
    backend: Literal["transformers", "vllm"] = "transformers"
    batch_size: Positive | Literal["auto"] = 64
    max_gen_toks: Positive | None = None
    report_documents: Positive | None = None
    allow_unsafe_code: bool = False

    @property
    def search_limit(self) -> int | None:
        """How many documents a task's search set has at most; None: all there are.

        Base and experts, and at the end the finalists, are scored on all of them if the panel or
        the estimator learns from that: then it is `SOME` unless the user says more.
        """
        if isinstance(self.search_documents, int):
            return self.search_documents
        learns = self.plan(0).needs_references
        return SOME if learns and self.search_documents == "auto" else None

    def plan(self, seed: int) -> Plan:
        """How the search's documents are chosen and what follows from them.

        Raises:
            ConfigError: unknown kind or parameter, value of the wrong type or out of range.
        """
        module, params = plugin(self.estimator, ESTIMATORS, "fitness.estimator")
        panel = plugin(self.panel or {"kind": module.PANEL}, SELECTORS, "fitness.panel")
        if module.RANK == "value" and not panel[0].EVEN:
            even = ", ".join(name for name in SELECTORS if SELECTORS[name].EVEN)
            raise ConfigError(
                "fitness.panel: its documents are not equally probable, so that their plain mean "
                f"would be off; take {even}, or another estimator"
            )
        rule = self.rule()
        looks = (1.0,) if rule is None else (*rule.looks, 1.0)
        return Plan(panel, (module, params), looks, seed)

    def rule(self) -> Rule | None:
        """When candidates are dropped; None: never. On unless the plain mean decides."""
        if isinstance(self.racing, RacingConfig):
            return self.racing.rule()
        return RacingConfig().rule() if self._careful(self.racing) else None

    def promoted(self) -> PromotionConfig | None:
        """Who is scored on more documents; None: nobody. On unless the plain mean decides."""
        if isinstance(self.promotion, PromotionConfig):
            return self.promotion
        return PromotionConfig() if self._careful(self.promotion) else None

    def _careful(self, asked: bool | None) -> bool:
        module, _ = plugin(self.estimator, ESTIMATORS, "fitness.estimator")
        return module.RANK == "panel" if asked is None else asked
