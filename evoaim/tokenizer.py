"""The output's tokenizer: a donor's files, byte for byte or with tokens added to them."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoaim.errors import ConfigError
from evoaim.model_folder import inside, read_json

# Everything of a folder that says what a text becomes for the model, and how it stops.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
# What slow tokenizers read; they cannot say that a token of theirs is gone.
_SLOW_FILES = ("tokenizer.model", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


@dataclass(frozen=True)
class Donor:
    """A model's fast tokenizer.

    Args:
        name: of the model, as the user gave it.
        folder: that holds tokenizer.json.
        rows: of the model's embedding; tokens beyond them are none.
        kind: of the tokenizer's own vocabulary: BPE, Unigram, WordPiece or WordLevel.
        plain: token -> id, of the tokenizer's own vocabulary.
        added: token -> its entry under `added_tokens`.
    """

    name: str
    folder: Path
    rows: int
    kind: str
    plain: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, name: str, folder: Path, rows: int) -> "Donor":
        """The tokenizer in a model's folder.

        Raises:
            ConfigError: there is no tokenizer.json, or it cannot be read.
        """
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"model '{name}': has no tokenizer.json, so its tokens are not known; save a fast "
                "tokenizer there (transformers: AutoTokenizer, save_pretrained)"
            )
        data = read_json(folder / "tokenizer.json", name)
        added = {t["content"]: t for t in data.get("added_tokens") or []}
        kind = str((data.get("model") or {}).get("type"))
        return cls(name, folder, rows, kind, _plain(data), added)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return {**self.plain, **{t: int(e["id"]) for t, e in self.added.items()}}

    @property
    def tokens(self) -> dict[str, int]:
        """Token -> id, of the tokens that have a row in the embedding."""
        return {t: i for t, i in self.vocabulary.items() if i < self.rows}


@dataclass(frozen=True)
class OutputTokenizer:
    """The tokenizer of a merged model.

    Args:
        donor: whose files it is made from.
        tokens: token -> id.
        added: entries that the donor's `added_tokens` lack, with their ids.
        dropped: tokens of the donor that are left out.
    """

    donor: Donor
    tokens: Mapping[str, int]
    added: tuple[Mapping[str, Any], ...] = ()
    dropped: frozenset[str] = frozenset()

    def write(self, folder: Path) -> None:
        """Make the tokenizer files in `folder` this tokenizer's; those it holds are replaced.

        Files that need no change are the donor's byte for byte: transformers 5 rewrites tokenizers
        so that 4.x refuses them. With added tokens, slow tokenizers get added_tokens.json; with
        dropped ones only the fast tokenizer is written.

        Raises:
            ConfigError: a file of the donor links out of its folder.
            OSError: a file cannot be written.
        """
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
            if (self.donor.folder / name).is_file():
                shutil.copyfile(inside(self.donor.folder, name, self.donor.name), folder / name)
        if not self.added and not self.dropped:
            return
        fast = edited(_json(folder / "tokenizer.json"), self.added, self.dropped)
        _write(folder / "tokenizer.json", fast)
        if self.dropped:
            for name in _SLOW_FILES:
                (folder / name).unlink(missing_ok=True)
        else:
            new = {t["content"]: t["id"] for t in self.added}
            file = folder / "added_tokens.json"
            _write(file, (_json(file) if file.is_file() else {}) | new)
        file = folder / "tokenizer_config.json"
        if file.is_file() and "added_tokens_decoder" in (config := _json(file)):
            known = {
                i: t
                for i, t in config["added_tokens_decoder"].items()
                if t["content"] not in self.dropped
            }
            new = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in self.added}
            _write(file, config | {"added_tokens_decoder": known | new})


def extended(
    donor: Donor, entries: Iterable[Mapping[str, Any]], dropped: frozenset[str]
) -> OutputTokenizer:
    """A donor's tokenizer with more tokens, numbered on from its last one in their order.

    Raises:
        ConfigError: the donor's ids have gaps, which the tokenizers library would fill; a token
            shall go from a vocabulary that is no BPE's.
    """
    gone = dropped & donor.plain.keys()
    if gone and donor.kind != "BPE":
        raise ConfigError(
            f"model '{donor.name}': token {min(gone)!r} has no row in the embedding, and a "
            f"{donor.kind} tokenizer cannot do without it; resize the model's embedding to it"
        )
    tokens = {t: i for t, i in donor.vocabulary.items() if t not in dropped}
    plain = {i for t, i in donor.plain.items() if t not in dropped}
    gaps = plain != set(range(len(plain))) or set(tokens.values()) != set(range(len(tokens)))
    numbered: list[Mapping[str, Any]] = []
    for new in entries:
        number = tokens.setdefault(str(new["content"]), len(tokens))
        numbered.append({**new, "id": number})
    if numbered and gaps:
        raise ConfigError(
            f"model '{donor.name}': tokenizer.json has gaps in its ids, so no token can be added"
        )
    return OutputTokenizer(donor, tokens, tuple(numbered), dropped)


def union(donors: Iterable[Donor]) -> list[Mapping[str, Any]]:
    """What the first donor's `added_tokens` lack to know the tokens of all donors, as in mergekit.

    Plain tokens first, in the donors' order and by id; then added tokens (such as `<|im_end|>`)
    with the settings of the first donor that has them, also where the first donor only knows them
    as plain ones.
    """
    first, *others = donors
    known = set(first.tokens)
    plain: dict[str, Mapping[str, Any]] = {}
    special = dict(first.added)
    old = set(special)
    for donor in others:
        tokens, added = donor.tokens, donor.added
        for token in sorted(tokens, key=tokens.__getitem__):
            if token in added:
                special.setdefault(token, added[token])
            elif token not in known:
                plain.setdefault(token, entry(token))
    new = [t for token, t in special.items() if token not in old]
    return [*(t for token, t in plain.items() if token not in special), *new]


def entry(token: str) -> dict[str, Any]:
    """A new token without special behaviour, as an entry of `added_tokens` (the id is not set)."""
    return {"id": 0, "content": token, **_FLAGS, "normalized": True, "special": False}


def edited(
    data: Mapping[str, Any], added: Iterable[Mapping[str, Any]], dropped: frozenset[str]
) -> dict[str, Any]:
    """A tokenizer.json with more `added_tokens`, and without the dropped tokens."""
    kept = [t for t in data.get("added_tokens") or [] if t["content"] not in dropped]
    new = {**data, "added_tokens": sorted([*kept, *added], key=lambda t: int(t["id"]))}
    plain, model = _plain(data), data["model"]
    gone = dropped & set(plain)
    if not gone:
        return new
    merges = [m for m in model["merges"] if not gone & _parts(m)]
    vocabulary = {t: i for t, i in plain.items() if t not in gone}
    return {**new, "model": {**model, "vocab": vocabulary, "merges": merges}}


def _plain(data: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = (data.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        return vocabulary
    return {
        str(token): i for i, (token, _) in enumerate(vocabulary)
    }  # unigram: the id is the place


def _parts(merge: Any) -> set[str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return {left, right, left + right}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, str(path.parent))


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
