"""Models of different vocabularies made alike: embedding and head rows in one tokenizer's order."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evoaim.checkpoint import Weights
from evoaim.errors import ConfigError
from evoaim.model_folder import locate, read_json
from evoaim.token_rows import RowRules, RowTable, row_map
from evoaim.tokenizer import Donor, OutputTokenizer, entry, extended, union
from search_spaces.tokenizer_spec import TokenizerSpec

_NO_VOCABULARY = re.compile(r"position|wpe|norm|ln_|(^|\.)\d+\.")


@dataclass(frozen=True)
class Aligned:
    """Models that agree on their tokens.

    Args:
        models: key -> the model, or a view of it; where nothing has to change, the model itself.
        tokenizer: of the output; None: the base's, unchanged.
    """

    models: Mapping[str, Weights]
    tokenizer: OutputTokenizer | None


def align(
    models: Mapping[str, Weights],
    spec: TokenizerSpec,
    base: str | None = None,
    feeds: Mapping[str, Collection[str]] | None = None,
) -> Aligned:
    """Bring every model's embedding and head to the vocabulary that a recipe asks for.

    As mergekit 0.1.5: a model keeps its own rows. A token that it lacks gets the row of the only
    model that has it; else the base's, if that has it; else the mean of those that have it; zeros
    if none has. `spec.tokens` overrule this, and with `force` also the model's own row. Rows that
    `pad_to_multiple_of` adds are the mean of the model's rows.

    Unlike mergekit, which always cuts the embedding to the tokenizer, nothing changes where all
    models have the same tokens and rows already; ids of new tokens do not depend on chance; and a
    token rule without a source stands for the rule above.

    Args:
        models: key -> model, all that the recipe merges.
        spec: whose model names are keys of `models` (see `TokenizerSpec.renamed`), or, for its
            source, also a folder or hub id.
        base: key of the recipe's base model; without one the first model's tokenizer is extended,
            and no model's rows go before the others'.
        feeds: embedding or head tensor -> the models merged into it; those are the ones that rows
            are taken from. Default, and for tensors that are not named: all.

    Raises:
        ConfigError: a tokenizer cannot be read or extended, a rule names a model or token that
            does not exist.
    """
    first = next(iter(models)) if base is None else base
    rows = {key: _rows(model) for key, model in models.items()}
    donors = {key: _donor(models, rows, key, first) for key in models}
    tokenizer = _tokenizer(spec, donors, first, rows)
    tokens = {key: donor.tokens for key, donor in donors.items()}
    same = all(t == tokenizer.tokens and rows[k] == rows[first] for k, t in tokens.items())
    padded = rows[first] % (spec.pad_to_multiple_of or 1) == 0
    if same and padded and not any(rule.force for rule in spec.tokens.values()):
        kept = tokenizer.donor.folder == donors[first].folder and not tokenizer.added
        return Aligned(models, None if kept else tokenizer)
    size = max(tokenizer.tokens.values()) + 1
    multiple = spec.pad_to_multiple_of or 1
    table = RowTable(
        models,
        {key: vocabulary_keys(model) for key, model in models.items()},
        RowRules(tokenizer.tokens, tokens, spec.tokens, base, feeds or {}),
        -(-size // multiple) * multiple,
        {key: row_map(tokenizer.tokens, tokens[key], size) for key in models},
    )
    special = _special_ids(tokenizer.donor)
    return Aligned({key: AlignedWeights(table, key, special) for key in models}, tokenizer)


@dataclass(frozen=True)
class AlignedWeights:
    """A model whose embedding and head have the rows of another vocabulary (see `Weights`)."""

    table: RowTable
    key: str
    special_ids: Mapping[str, Any]  # of the tokenizer's model, for config.json
    _made: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def inner(self) -> Weights:
        """The model as it is stored."""
        return self.table.models[self.key]

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.inner.name

    @property
    def folder(self) -> Path:
        """Where the stored model lies."""
        return self.inner.folder

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape, with the new number of rows."""
        keys, size = self.table.keys[self.key], self.table.size
        return {k: (size, *s[1:]) if k in keys else s for k, s in self.inner.shapes.items()}

    @property
    def config(self) -> dict[str, Any]:
        """The model's config with the new vocabulary size and special tokens' ids."""
        config = dict(self.inner.config)
        text = config.get("text_config")
        nested = isinstance(text, Mapping) and "vocab_size" in text
        part = dict(text) if nested else config  # type: ignore[arg-type]
        part["vocab_size"] = self.table.size
        part |= {k: v for k, v in self.special_ids.items() if k in part}
        return config | {"text_config": part} if nested else part

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Token -> row."""
        return self.table.rules.tokens

    @property
    def dtype(self) -> str:
        """Name of the dtype that most of the weights are stored in."""
        return self.inner.dtype

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights, as stored."""
        item: int = getattr(torch, self.dtype).itemsize
        grown = [
            torch.Size(self.shapes[k]).numel() - torch.Size(self.inner.shapes[k]).numel()
            for k in self.table.keys[self.key]
        ]
        return self.inner.n_bytes + item * sum(grown)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the models that rows come from, and of the rules."""
        rules, models = self.table.rules, self.table.models
        parts = [self.key, self.table.size, repr(rules.base), repr(sorted(rules.given.items()))]
        parts += [sorted(rules.tokens.items()), *(m.content_hash for m in models.values())]
        parts += [{k: sorted(v) for k, v in rules.feeds.items()}]
        return sha256(json.dumps(parts).encode()).hexdigest()

    def tensor(self, key: str) -> Tensor:
        """The whole weights; aligned ones are made at first use and kept until `release`."""
        if key not in self.table.keys[self.key]:
            return self.inner.tensor(key)
        if key not in self._made:
            self._made[key] = self.table.tensor(self.key, key)
        return self._made[key]

    def delta(self, key: str) -> Tensor | None:
        """Whole weights minus the base's, of a LoRA; None for aligned tensors."""
        return None if key in self.table.keys[self.key] else self.inner.delta(key)

    def touches(self, key: str) -> bool:
        """False: `tensor` is the base's very tensor."""
        return key in self.table.keys[self.key] or self.inner.touches(key)

    def release(self) -> None:
        """Let mapped files and aligned tensors go; they are made anew when needed."""
        self._made.clear()
        self.inner.release()


def _donor(models: Mapping[str, Weights], rows: Mapping[str, int], key: str, first: str) -> Donor:
    """A model's tokenizer; the first one's for a model without files of its own, as in mergekit."""
    model = models[key]
    if key != first and not (model.folder / "tokenizer.json").is_file():
        if rows[key] != rows[first]:
            raise ConfigError(
                f"model '{model.name}': has no tokenizer.json, and another number of embedding "
                f"rows than '{models[first].name}'; put its tokenizer beside its weights"
            )
        model = models[first]
    return Donor.read(models[key].name, model.folder, rows[key])


def _tokenizer(
    spec: TokenizerSpec, donors: Mapping[str, Donor], first: str, rows: Mapping[str, int]
) -> OutputTokenizer:
    donor = donors[first]
    new: list[Mapping[str, Any]] = []
    dropped: frozenset[str] = frozenset()
    if spec.source in ("base", "union"):
        dropped = frozenset(donor.vocabulary) - frozenset(donor.tokens)
        if spec.source == "union":
            new = union([donor, *(d for k, d in donors.items() if k != first)])
    elif spec.source in donors:
        donor = donors[spec.source]
    else:
        donor = Donor.read(spec.source, locate(spec.source), max(rows.values()))
    known = {*donor.vocabulary, *(t["content"] for t in new)} - dropped
    return extended(donor, [*new, *(entry(t) for t in spec.tokens if t not in known)], dropped)


def vocabulary_keys(model: Weights) -> frozenset[str]:
    """Names of a model's embedding, head and head bias: what has one row a token.

    Raises:
        ConfigError: there is none.
    """
    return _keys(model, _rows(model))


def _rows(model: Weights) -> int:
    """Rows of the embedding, by the config; checked against the weights."""
    text = model.config.get("text_config") or {}
    rows = model.config.get("vocab_size", text.get("vocab_size"))
    if not isinstance(rows, int) or not _keys(model, rows):
        raise ConfigError(
            f"model '{model.name}': no tensor has one row for each of config.json's vocab_size "
            f"{rows!r} tokens, so its vocabulary cannot be changed"
        )
    return rows


def _keys(model: Weights, rows: int) -> frozenset[str]:
    return frozenset(
        k for k, s in model.shapes.items() if s[:1] == (rows,) and not _NO_VOCABULARY.search(k)
    )


def _special_ids(donor: Donor) -> dict[str, Any]:
    """Ids of end-of-text and the like, as the config beside a tokenizer says."""
    if not (donor.folder / "config.json").is_file():
        return {}
    config = read_json(donor.folder / "config.json", donor.name)
    both = {**config, **(config.get("text_config") or {})}
    return {k: v for k, v in both.items() if k.endswith("_token_id")}
