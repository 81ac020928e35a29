"""Which tokens the merged model shall know, and where each one's embedding comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from search_spaces.errors import SpaceError, unknown
from search_spaces.slices import model_name, required_model

# Templates known by name, as in mergekit.
CHAT_TEMPLATES = ("alpaca", "chatml", "exaone", "llama3", "mistral")
_KEYS = {"source", "tokens", "pad_to_multiple_of"}
_SHORTEST_TEMPLATE = 20  # characters; what is shorter is a mistyped name, as in mergekit


@dataclass(frozen=True)
class TokenSource:
    """Where the embedding of one token comes from.

    Args:
        kind: "model": the same token of `model`; "model_token": the token `token` of `model`, by
            text or id; "zero": zeros.
        model: as the recipe names it; "" for "zero".
        token: only of "model_token".
    """

    kind: Literal["model", "model_token", "zero"]
    model: str = ""
    token: str | int = ""

    def to_data(self) -> Any:
        """Plain data in mergekit's form."""
        if self.kind == "model":
            return self.model
        if self.kind == "zero":
            return {"kind": "zero"}
        key = "token_id" if isinstance(self.token, int) else "token"
        return {"kind": "model_token", "model": self.model, key: self.token}


@dataclass(frozen=True)
class TokenRule:
    """What is said of one token; `force` also replaces the rows of models that have it."""

    source: TokenSource | None = None
    force: bool = False

    def to_data(self) -> dict[str, Any]:
        """Plain data in mergekit's form."""
        data = {} if self.source is None else {"source": self.source.to_data()}
        return data | ({"force": True} if self.force else {})


@dataclass(frozen=True)
class TokenizerSpec:
    """The output's vocabulary.

    Args:
        source: "base", "union", or the model whose tokenizer it is.
        tokens: rules for single tokens; those that the tokenizer lacks are added to it.
        pad_to_multiple_of: round the number of embedding rows up to a multiple of this.
    """

    source: str = "union"
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None

    def to_mergekit(self) -> dict[str, Any]:
        """`tokenizer_source: ...`, or `tokenizer: {...}` where that does not say it all."""
        if not self.tokens and self.pad_to_multiple_of is None:
            return {"tokenizer_source": self.source}
        data: dict[str, Any] = {"source": self.source}
        if self.tokens:
            data["tokens"] = {t: rule.to_data() for t, rule in self.tokens.items()}
        if self.pad_to_multiple_of is not None:
            data["pad_to_multiple_of"] = self.pad_to_multiple_of
        return {"tokenizer": data}

    @property
    def models(self) -> Iterator[str]:
        """Every model that is named, repeats included."""
        if self.source not in ("base", "union"):
            yield self.source
        for rule in self.tokens.values():
            if rule.source is not None and rule.source.kind != "zero":
                yield rule.source.model

    def renamed(self, names: Mapping[str, str]) -> "TokenizerSpec":
        """The same with other names for the models; those not in `names` stay."""
        tokens = {
            t: replace(r, source=replace(s, model=names.get(s.model, s.model)))
            if (s := r.source) is not None
            else r
            for t, r in self.tokens.items()
        }
        keeps = self.source in ("base", "union")
        source = self.source if keeps else names.get(self.source, self.source)
        return replace(self, source=source, tokens=tokens)


def read_tokenizer(data: Mapping[str, Any], where: str) -> TokenizerSpec | None:
    """The `tokenizer_source` or `tokenizer` of a recipe in plain data; None if it has neither.

    Raises:
        SpaceError: both, an unknown key, a wrong type.
    """
    short, long = data.get("tokenizer_source"), data.get("tokenizer")
    if short is not None and long is not None:
        raise SpaceError(f"{where}: give tokenizer_source or tokenizer, not both")
    if short is not None:
        return TokenizerSpec(str(model_name(short, f"{where}: tokenizer_source")))
    if long is None:
        return None
    where = f"{where}: tokenizer"
    if not isinstance(long, Mapping):
        raise SpaceError(f"{where}: 'source: union' or the like expected, got {long!r}")
    for key in long:
        if key not in _KEYS:
            raise SpaceError(f"{where}: {unknown('key', key, _KEYS)}")
    tokens = {} if long.get("tokens") is None else long["tokens"]
    if not isinstance(tokens, Mapping) or not all(isinstance(t, str) and t for t in tokens):
        raise SpaceError(f"{where}: tokens: 'TEXT: {{source: ...}}' expected, got {tokens!r}")
    multiple = long.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        raise SpaceError(
            f"{where}: pad_to_multiple_of: a positive whole number expected, got {multiple!r}"
        )
    return TokenizerSpec(
        model_name(long.get("source"), f"{where}: source") or "union",
        {t: _rule(r, f"{where}: tokens: {t!r}") for t, r in tokens.items()},
        multiple,
    )


def read_chat_template(data: Any, where: str) -> str | None:
    """The `chat_template` of a recipe: auto, a name, or the text of a Jinja template.

    Raises:
        SpaceError: neither.
    """
    if data is None or data == "auto" or data in CHAT_TEMPLATES:
        return data  # type: ignore[no-any-return]
    if isinstance(data, str) and len(data) >= _SHORTEST_TEMPLATE and "{" in data:
        return data
    raise SpaceError(
        f"{where}: auto, one of {', '.join(CHAT_TEMPLATES)}, or the text of a Jinja template "
        f"expected, got {data!r}"
    )


def _rule(data: Any, where: str) -> TokenRule:
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: {{source: ..., force: ...}} expected, got {data!r}")
    for key in data:
        if key not in ("source", "force"):
            raise SpaceError(f"{where}: {unknown('key', key, ['source', 'force'])}")
    force = data.get("force", False)
    if not isinstance(force, bool):
        raise SpaceError(f"{where}: force: true or false expected, got {force!r}")
    source = _token_source(data.get("source"), f"{where}: source")
    if force and source is None:
        raise SpaceError(f"{where}: force needs a source")
    return TokenRule(source, force)


def _token_source(data: Any, where: str) -> TokenSource | None:
    if data is None:
        return None
    if not isinstance(data, Mapping) or "kind" not in data:
        return TokenSource("model", str(model_name(data, where)))
    kind = data["kind"]
    allowed = {"zero": {"kind"}, "model_token": {"kind", "model", "token", "token_id"}}
    if not isinstance(kind, str) or kind not in allowed:
        raise SpaceError(f"{where}: {unknown('kind', kind, allowed)}")
    for key in data:
        if key not in allowed[kind]:
            raise SpaceError(f"{where}: {unknown('key', key, allowed[kind])}")
    if kind == "zero":
        return TokenSource("zero")
    given = [data[key] for key in ("token", "token_id") if data.get(key) is not None]
    if len(given) != 1 or not _is_token(given[0], data.get("token") is None):
        raise SpaceError(f"{where}: either token: TEXT or token_id: NUMBER expected, got {data!r}")
    return TokenSource("model_token", required_model(data, where), given[0])


def _is_token(value: Any, as_id: bool) -> bool:
    return (type(value) is int and value >= 0) if as_id else isinstance(value, str) and value != ""
