"""Rows of embeddings and heads, arranged for another vocabulary, the missing ones made up."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from evoaim.checkpoint import Weights
from evoaim.errors import ConfigError
from search_spaces.tokenizer_spec import TokenRule

_ZERO, _MEAN = -1, -2  # where a row comes from, if not from one model
_BLOCK = 4096  # rows that are summed at once


@dataclass(frozen=True)
class RowRules:
    """What decides where the row of a token comes from, in a model that lacks the token.

    Args:
        tokens: token -> id in the output.
        known: model -> its tokens' rows.
        given: token -> rule of the recipe, which overrules the rest.
        base: the model whose rows go before those of others, if there is one.
        feeds: tensor -> the models that rows of it are taken from; default all.
    """

    tokens: Mapping[str, int]
    known: Mapping[str, Mapping[str, int]]
    given: Mapping[str, TokenRule]
    base: str | None
    feeds: Mapping[str, Collection[str]]

    def named(self, token: str, models: list[str]) -> tuple[int, int]:
        """(place of the model among `models`, its row) that a rule of the recipe names.

        Raises:
            ConfigError: the model takes no part, or has no such token.
        """
        source = self.given[token].source
        if source is None or source.kind == "zero":
            return _ZERO, 0
        where = f"tokenizer.tokens: {token!r}"
        if source.model not in models:
            raise ConfigError(f"{where}: model '{source.model}' takes no part in this merge")
        known = self.known[source.model]
        wanted = token if source.kind == "model" else source.token
        row = wanted if isinstance(wanted, int) else known.get(wanted)
        if row is None:
            raise ConfigError(f"{where}: model '{source.model}' has no token {wanted!r}")
        return models.index(source.model), row


@dataclass(frozen=True)
class RowTable:
    """All models' tensors with one row a token, in the order of the output's tokens.

    Args:
        models: by key, as they are stored.
        keys: model -> names of those tensors.
        rules: where missing rows come from.
        size: number of output rows.
        rows: model -> for every output id [largest id + 1] the model's row, -1 if it has none.
    """

    models: Mapping[str, Weights]
    keys: Mapping[str, Collection[str]]
    rules: RowRules
    size: int
    rows: Mapping[str, Tensor]
    _fills: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def tensor(self, model: str, key: str) -> Tensor:
        """An embedding or head [size, ...], in the dtype that all models' ones promote to."""
        ids, values, forced = self._fill(key)
        old, rows = self.models[model].tensor(key), self.rows[model]
        new = torch.zeros((self.size, *old.shape[1:]), dtype=values.dtype)
        # row 0 stands for those that the model lacks, until they are filled
        torch.index_select(old.to(new.dtype), 0, rows.clamp(min=0), out=new[: len(rows)])
        lacking = (rows[ids] < 0) | forced[ids]
        new[ids[lacking]] = values[lacking]
        unnamed = torch.ones(self.size, dtype=torch.bool)
        unnamed[torch.tensor(list(self.rules.tokens.values()))] = False
        if unnamed.any():
            new[unnamed] = 0
            exact = torch.promote_types(new.dtype, torch.float32)
            total = torch.zeros(new.shape[1:], dtype=exact)
            for block in torch.split(new, _BLOCK):
                total += block.to(exact).sum(0)
            new[unnamed] = (total / len(self.rules.tokens)).to(new.dtype)
        return new

    def _fill(self, key: str) -> tuple[Tensor, Tensor, Tensor]:
        """Output ids that some model needs a row for, those rows, and which ids are forced."""
        if key not in self._fills:
            self._fills[key] = self._filled(key)
        return self._fills[key]

    def _filled(self, key: str) -> tuple[Tensor, Tensor, Tensor]:
        held = [m for m in self.models if key in self.keys[m]]
        models = [m for m in held if m in self.rules.feeds.get(key, held)] or held
        source, row, forced = self._sources(key, models, held)
        lacking = forced | (torch.stack([self.rows[m] for m in held]) < 0).any(0)
        named = torch.tensor(sorted(self.rules.tokens.values()))
        ids = named[lacking[named]]
        source, row = source[ids], row[ids]
        tensors = [self.models[m].tensor(key) for m in models]
        dtype = reduce(torch.promote_types, (t.dtype for t in tensors))
        exact = torch.promote_types(dtype, torch.float32)
        values = torch.zeros((len(ids), *tensors[0].shape[1:]), dtype=exact)
        counts = torch.zeros(len(ids), dtype=torch.int64)
        for i, (model, tensor) in enumerate(zip(models, tensors, strict=True)):
            own = self.rows[model][ids]
            taken = torch.where(source == _MEAN, own, torch.where(source == i, row, -1))
            at = torch.nonzero(taken >= 0).flatten()
            values[at] += tensor[taken[at]].to(exact)
            counts[at] += 1
        values /= counts.clamp(min=1).view(-1, *[1] * (values.ndim - 1))
        return ids, values.to(dtype), forced

    def _sources(
        self, key: str, models: list[str], held: list[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For every output id: place of the model that a missing row comes from, its row, force."""
        rows = torch.stack([self.rows[m] for m in models])
        has = rows >= 0
        count, only = has.sum(0), has.int().argmax(0)
        source = torch.where(count > 1, _MEAN, torch.where(count == 1, only, _ZERO))
        if self.rules.base in models:
            place = models.index(self.rules.base)
            source[has[place] & (count > 1)] = place
        row = rows.gather(0, source.clamp(min=0)[None])[0]
        forced = torch.zeros_like(has[0])
        for token, rule in self.rules.given.items():
            i = self.rules.tokens[token]
            forced[i] = rule.force
            needed = rule.force or any(self.rows[m][i] < 0 for m in held)
            if rule.source is None or not needed:
                continue
            model, source_row = self.rules.named(token, models)
            if model >= 0 and source_row >= self.models[models[model]].shapes[key][0]:
                raise ConfigError(
                    f"tokenizer.tokens: {token!r}: model '{models[model]}' has no row {source_row}"
                )
            source[i], row[i] = model, source_row
        return source, row, forced


def row_map(tokens: Mapping[str, int], known: Mapping[str, int], size: int) -> Tensor:
    """For every output id [size] a model's row of that token, -1 if it has none."""
    rows = [-1] * size
    for token, i in tokens.items():
        rows[i] = known.get(token, -1)
    return torch.tensor(rows)
