"""adapter_config.json of a LoRA adapter: rank and strength by module, and what is refused."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from evoaim.errors import ConfigError
from evoaim.model_folder import MERGE_FIRST

N = TypeVar("N", int, float)

# Options under which an adapter is more, or other, than base + scale * B @ A.
_REFUSED = {
    "alora_invocation_tokens": "works on some tokens only, which no merged weights can",
    "arrow_config": "routes between adapters, which no merged weights can",
    "kasa_config": f"alters the base (KaSA); {MERGE_FIRST}",
    "layer_replication": f"repeats layers of the base; {MERGE_FIRST}",
    "megatron_config": "was saved by Megatron; save it with peft",
    "monteclora_config": f"draws its weights (MonteCLoRA); {MERGE_FIRST}",
    "target_parameters": f"adapts packed parameters, not modules; {MERGE_FIRST}",
    "trainable_token_indices": f"trains rows of the embedding; {MERGE_FIRST}",
    "use_bdlora": f"has block-diagonal factors (BD-LoRA); {MERGE_FIRST}",
    "use_qalora": f"belongs to a quantized base (QA-LoRA); {MERGE_FIRST}",
}
# Initialisations that move a part of the base's weights into the adapter.
_ALTERS_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
# A repeated group or many repetitions: such a pattern can take for ever to match.
_SLOW = re.compile(r"\)[*+{]|([*+{].*){4}")


@dataclass(frozen=True)
class LoraSettings:
    """Rank and strength of every module, by its name in the live model."""

    rank: int
    alpha: float
    ranks: Mapping[re.Pattern[str], int]
    alphas: Mapping[re.Pattern[str], float]
    rank_stabilized: bool  # alpha / sqrt(rank) (arXiv:2312.03732) in place of alpha / rank
    dora: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], who: str) -> "LoraSettings":
        """Read a config; what it does not say has peft's default.

        Raises:
            ConfigError: not LoRA, a variant that is not supported, or nonsense.
        """
        kind = config.get("peft_type")
        if kind != "LORA":
            raise ConfigError(
                f"{who}: peft_type is {kind!r}, only LORA is supported; {MERGE_FIRST}"
            )
        for option, reason in _REFUSED.items():
            if config.get(option):
                raise ConfigError(f"{who}: {option}: {reason}")
        start = str(config.get("init_lora_weights", "")).lower()
        if start.startswith(_ALTERS_BASE):
            raise ConfigError(
                f"{who}: init_lora_weights '{start}' took a part of the base into the adapter, so "
                "that it does not fit the base as published; save it converted (peft: "
                f"save_pretrained with path_initial_model_for_weight_conversion) or {MERGE_FIRST}"
            )
        default = 8  # peft's, of both
        return cls(
            _whole(config.get("r", default), "r", who),
            _number(config.get("lora_alpha", default), "lora_alpha", who),
            _patterns(config, "rank_pattern", who, _whole),
            _patterns(config, "alpha_pattern", who, _number),
            bool(config.get("use_rslora")),
            bool(config.get("use_dora")),
        )

    def rank_of(self, module: str) -> int:
        """The rank that the module's factors should have."""
        return _first(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of B @ A."""
        rank = self.rank_of(module)
        alpha = _first(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def _number(value: Any, entry: str, who: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) < 1e9:  # neither NaN nor an integer that no float can hold
        raise ConfigError(f"{who}: adapter_config.json has {entry} {value!r}; a number expected")
    return float(value)


def _whole(value: Any, entry: str, who: str) -> int:
    number = _number(value, entry, who)
    if number < 1 or number != int(number):
        raise ConfigError(
            f"{who}: adapter_config.json has {entry} {value!r}; a whole number above 0 expected"
        )
    return int(number)


def _patterns(
    config: Mapping[str, Any], key: str, who: str, read: Callable[[Any, str, str], N]
) -> Mapping[re.Pattern[str], N]:
    """Patterns of a module's whole name or an end of it, as in peft; the first match counts."""
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{who}: adapter_config.json has {key} {found!r}; an object expected")
    values: dict[re.Pattern[str], N] = {}
    for pattern, value in found.items():
        entry = f"{key} '{pattern}'"
        if _SLOW.search(pattern):
            raise ConfigError(f"{who}: adapter_config.json has {entry}, too many repetitions")
        try:
            compiled = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"{who}: adapter_config.json has {entry} ({error})") from None
        values[compiled] = read(value, entry, who)
    return values


def _first(patterns: Mapping[re.Pattern[str], N], module: str, default: N) -> N:
    return next((value for p, value in patterns.items() if p.match(module)), default)
