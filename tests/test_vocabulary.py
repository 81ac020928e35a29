"""Different vocabularies: rows, tokenizer files and chat templates as mergekit's, or refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evoaim.chat_template import TEMPLATES, chat_template, write_chat_template
from evoaim.checkpoint import Checkpoint, Weights
from evoaim.compatibility import check_compatible
from evoaim.errors import ConfigError
from evoaim.tokenizer import Donor, extended, union
from evoaim.vocabulary import Aligned, AlignedWeights, align
from search_spaces.recipe import Recipe
from search_spaces.tokenizer_spec import CHAT_TEMPLATES, TokenizerSpec, TokenRule, TokenSource

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# name -> (plain tokens after the first three, special tokens, rows of the embedding)
VOCABULARIES = {
    "base": ([f"w{i}" for i in range(12)], ["<|pad|>"], 16),
    "a": ([f"w{i}" for i in reversed(range(9))] + ["x0", "x1"], ["<|im_end|>"], 15),
    "b": ([f"w{i}" for i in range(3, 12)] + ["<|im_end|>", "x1", "x2"], ["<|pad|>"], 19),
}


def save_tokenizer(folder: Path, plain: list[str], special: list[str], **config: Any) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *plain])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **names, **config).save_pretrained(folder)


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory, model_maker: Any) -> dict[str, str]:
    """Folders of three models, each with a vocabulary of its own; b's has rows without a token."""
    root = tmp_path_factory.mktemp("speakers")
    for seed, (name, (plain, special, rows)) in enumerate(VOCABULARIES.items()):
        settings = {"vocab_size": rows, "num_hidden_layers": 1, "tie_word_embeddings": False}
        model_maker(root / name, seed=seed, **settings)
        save_tokenizer(root / name, plain, special)
    return {name: str(root / name) for name in VOCABULARIES}


def opened(folders: Mapping[str, str]) -> dict[str, Weights]:
    return {name: Checkpoint.open(folder) for name, folder in folders.items()}


def rule(*source: Any, force: bool = False) -> TokenRule:
    return TokenRule(TokenSource(*source), force)


ZERO, NEW = rule("zero"), rule("model_token", "a", "x0")
SPECS = {
    "union": TokenizerSpec("union"),
    "base": TokenizerSpec("base"),
    "model": TokenizerSpec("b"),
    "padded": TokenizerSpec("union", {}, 8),
    "tokens": TokenizerSpec(
        "union",
        {
            "<new>": NEW,
            "<empty>": ZERO,
            "x1": rule("model", "b"),
            "w0": rule("model_token", "b", 18, force=True),
            "x2": rule("model_token", "a", "w1", force=True),
            "w5": rule("model", "b"),
        },
        16,
    ),
}


def merge(aligned: Aligned, method: str, key: str) -> Tensor:
    x = {m: w.tensor(key).double() for m, w in aligned.models.items()}
    if method == "linear":
        return (0.3 * x["base"] + 0.6 * x["a"] + 0.5 * x["b"]) / 1.4
    return x["base"] + 0.6 * (x["a"] - x["base"]) + 0.5 * (x["b"] - x["base"])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("kind", SPECS)
def test_rows_are_those_of_mergekit(
    kind: str, method: str, speakers: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoTokenizer

    if method == "linear" and kind == "base":
        pytest.skip("without a base model, mergekit takes any model for it")
    weight = {"a": 0.6, "b": 0.5} | ({"base": 0.3} if method == "linear" else {})
    sources = [{"model": speakers[m], "parameters": {"weight": w}} for m, w in weight.items()]
    data = {"merge_method": method, "models": sources, "dtype": "float32"}
    if method != "linear":
        data["base_model"] = speakers["base"]
    data |= SPECS[kind].renamed(speakers).to_mergekit()
    assert Recipe.from_dict(data).tokenizer == SPECS[kind].renamed(speakers)
    run_merge(
        MergeConfiguration.model_validate(data),
        str(tmp_path / "theirs"),
        MergeOptions(quiet=True, write_model_card=False),
    )
    files = (tmp_path / "theirs").glob("*.safetensors")
    theirs = {k: v for f in files for k, v in load_file(f).items()}
    their_ids = AutoTokenizer.from_pretrained(tmp_path / "theirs").get_vocab()
    aligned = align(opened(speakers), SPECS[kind], "base" if method != "linear" else None)
    assert aligned.tokenizer is not None
    our_ids = aligned.tokenizer.tokens
    assert set(our_ids) == set(their_ids)
    for key in (EMBED, HEAD):
        ours = merge(aligned, method, key).float()
        assert ours.shape == theirs[key].shape
        for token, i in our_ids.items():
            expected = theirs[key][their_ids[token]]
            torch.testing.assert_close(ours[i], expected, rtol=1e-5, atol=1e-6, msg=token)
        pads = len(our_ids)  # every row that no token has is the same
        if len(ours) > pads:
            torch.testing.assert_close(ours[pads:], theirs[key][pads:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", SPECS)
def test_own_rows_stay_and_nothing_else_changes(kind: str, speakers: dict[str, str]) -> None:
    spec, stored = SPECS[kind], opened(speakers)
    aligned = align(stored, spec, "base")
    assert aligned.tokenizer is not None
    tokens = aligned.tokenizer.tokens
    for name, model in aligned.models.items():
        assert isinstance(model, AlignedWeights)
        assert model.vocabulary == tokens
        assert model.config["vocab_size"] == len(model.tensor(EMBED)) == model.shapes[HEAD][0]
        assert {k: tuple(model.tensor(k).shape) for k in model.shapes} == dict(model.shapes)
        grown = sum(model.tensor(k).nbytes - stored[name].tensor(k).nbytes for k in (EMBED, HEAD))
        assert model.n_bytes == stored[name].n_bytes + grown
        assert model.delta(EMBED) is None
        assert model.touches(HEAD)
        known = stored[name].vocabulary or {}
        for key in stored[name].shapes:
            old, new = stored[name].tensor(key), model.tensor(key)
            if key not in (EMBED, HEAD):
                assert torch.equal(old, new)
                continue
            for token in set(tokens) & set(known):
                if not spec.tokens.get(token, TokenRule()).force:
                    assert torch.equal(new[tokens[token]], old[known[token]]), token
    assert len({tuple(m.shapes.items()) for m in aligned.models.values()}) == 1


def test_missing_rows_follow_the_rule(speakers: dict[str, str]) -> None:
    stored = opened(speakers)
    spec = TokenizerSpec("union", {"<new>": TokenRule()})
    based, free = align(stored, spec, "base"), align(stored, spec)
    assert based.tokenizer is not None

    def row(aligned: Aligned, model: str, token: str) -> Tensor:
        assert based.tokenizer is not None
        return aligned.models[model].tensor(EMBED)[based.tokenizer.tokens[token]]

    def old(model: str, token: str) -> Tensor:
        return stored[model].tensor(EMBED)[(stored[model].vocabulary or {})[token]]

    assert torch.equal(row(based, "base", "x2"), old("b", "x2"))  # the only one that has it
    assert torch.equal(row(based, "b", "w0"), old("base", "w0"))  # the base
    mean = (old("base", "w0") + old("a", "w0")) / 2
    torch.testing.assert_close(row(free, "b", "w0"), mean)
    torch.testing.assert_close(row(based, "base", "x1"), (old("a", "x1") + old("b", "x1")) / 2)
    assert not row(based, "a", "<new>").any()  # nobody has it
    # only the models that feed a tensor give rows to it
    fed = align(stored, spec, "base", {EMBED: ["a", "base"]})
    assert not row(fed, "a", "x2").any()
    assert fed.models["a"].tensor(HEAD)[based.tokenizer.tokens["x2"]].any()
    hashes = {m.content_hash for a in (based, free, fed) for m in a.models.values()}
    assert len(hashes) == 9


def test_rows_are_rounded_once_and_wide_dtypes_win(speakers: dict[str, str]) -> None:
    class Half:
        def __init__(self, inner: Checkpoint) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def tensor(self, key: str) -> Tensor:
            return self.inner.tensor(key).bfloat16()

    exact, spec = opened(speakers), TokenizerSpec("union", {}, 64)
    halves: dict[str, Any] = {n: Half(m) for n, m in exact.items()}  # type: ignore[arg-type]
    whole = align({n: Checkpoint.open(f) for n, f in speakers.items()}, spec)
    half = align(halves, spec)
    assert half.tokenizer is not None
    i = half.tokenizer.tokens["w0"]
    rows = [halves[m].tensor(EMBED)[(exact[m].vocabulary or {})["w0"]] for m in ("base", "a")]
    got = half.models["b"].tensor(EMBED)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got[i], ((rows[0].float() + rows[1].float()) / 2).bfloat16())
    mixed = align(halves | {"a": exact["a"]}, spec)
    assert mixed.models["b"].tensor(EMBED).dtype == torch.float32
    assert whole.models["b"].tensor(EMBED).dtype == torch.float32


def test_equal_vocabularies_change_nothing(family: dict[str, str], tmp_path: Path) -> None:
    models = opened(family)
    for source in ("union", "base", "a"):
        aligned = align(models, TokenizerSpec(source), "base")
        assert aligned.models == models
        if source != "a":
            assert aligned.tokenizer is None
            continue
        assert aligned.tokenizer is not None
        aligned.tokenizer.write(tmp_path)
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (tmp_path / file).read_bytes() == (Path(family["a"]) / file).read_bytes()


@pytest.mark.parametrize("kind", ["union", "tokens", "model"])
def test_written_tokenizers_are_read_with_their_tokens(
    kind: str, speakers: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    aligned = align(opened(speakers), SPECS[kind], "base")
    assert aligned.tokenizer is not None
    (tmp_path / "vocab.txt").write_text("of another tokenizer")
    aligned.tokenizer.write(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read.get_vocab() == dict(aligned.tokenizer.tokens)
    assert not (tmp_path / "vocab.txt").exists()
    if kind == "model":
        same = (Path(speakers["b"]) / "tokenizer.json").read_bytes()
        assert (tmp_path / "tokenizer.json").read_bytes() == same
        return
    assert read("w1 x2 <|im_end|>")["input_ids"] == [
        aligned.tokenizer.tokens[t] for t in ("w1", "x2", "<|im_end|>")
    ]
    assert (
        "<|im_end|>" in read.all_special_tokens
        or read.added_tokens_decoder[aligned.tokenizer.tokens["<|im_end|>"]].special
    )
    base = Checkpoint.open(speakers["base"]).vocabulary or {}
    assert {t: i for t, i in aligned.tokenizer.tokens.items() if t in base} == base


def test_older_files_learn_the_new_tokens(speakers: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    source = Path(speakers["base"])
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    special = {"content": "<|pad|>", "special": True}
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {"15": special}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text('{"<|pad|>": 15}')
    donors = [Donor.read("old", folder, 16), Donor.read("a", Path(speakers["a"]), 15)]
    extended(donors[0], union(donors), frozenset()).write(tmp_path)
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {
        "<|pad|>": 15,
        "x0": 16,
        "x1": 17,
        "<|im_end|>": 18,
    }
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "LlamaTokenizer"
    decoder = written["added_tokens_decoder"]
    assert decoder["15"] == special
    assert (decoder["18"]["content"], decoder["18"]["special"]) == ("<|im_end|>", True)


def test_tokens_without_a_row_are_dropped_from_bpe(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {t: i for i, t in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    raw = Tokenizer(models.BPE(words, [("a", "b"), ("b", "c"), ("ab", "c")]))
    raw.add_tokens(["<pad>"])
    raw.save(str(tmp_path / "tokenizer.json"))
    donor = Donor.read("old", tmp_path, 5)
    assert set(donor.tokens) == {"a", "b", "c", "ab", "bc"}
    gone = frozenset(donor.vocabulary) - frozenset(donor.tokens)
    (tmp_path / "out").mkdir()
    extended(donor, [], gone).write(tmp_path / "out")
    read = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert read.get_vocab() == donor.tokens
    assert read.encode("abc").tokens == ["ab", "c"]


def test_new_models_know_where_texts_end(speakers: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    for file in Path(speakers["b"]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 17}))
    models = opened({"base": speakers["base"], "b": str(folder)})
    for source, expected in (("b", 17), ("union", models["base"].config["eos_token_id"])):
        aligned = align(models, TokenizerSpec(source), "base")
        assert aligned.models["base"].config["eos_token_id"] == expected


def broken(speakers: dict[str, str], folder: Path, edit: Callable[[Any], None]) -> dict[str, str]:
    folder.mkdir()
    for file in Path(speakers["base"]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = json.loads((folder / "tokenizer.json").read_text())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return speakers | {"base": str(folder)}


def test_refusals(speakers: dict[str, str], tmp_path: Path) -> None:
    def refused(spec: TokenizerSpec, message: str, folders: dict[str, str] = speakers) -> None:
        with pytest.raises(ConfigError, match=message):
            [m.tensor(EMBED) for m in align(opened(folders), spec, "base").models.values()]

    union_of = TokenizerSpec("union")
    refused(
        TokenizerSpec("union", {"<new>": rule("model", "c")}),
        r"tokenizer.tokens: '<new>': model 'c' takes no part",
    )
    refused(
        TokenizerSpec("union", {"x2": rule("model", "a")}), r"'x2': model 'a' has no token 'x2'"
    )
    refused(
        TokenizerSpec("union", {"x2": rule("model_token", "a", "w11")}),
        r"'x2': model 'a' has no token 'w11'",
    )
    refused(
        TokenizerSpec("union", {"x2": rule("model_token", "a", 15)}),
        r"'x2': model 'a' has no row 15",
    )
    refused(TokenizerSpec("nobody/nowhere/at-all"), r"'nobody/nowhere/at-all': no such folder")

    def rowless(data: Any) -> None:
        data["model"]["vocab"]["w12"] = 16

    refused(union_of, r"'w12' has no row .* a WordLevel", broken(speakers, tmp_path / "r", rowless))

    def hole(data: Any) -> None:
        del data["model"]["vocab"]["w3"]

    refused(union_of, r"tokenizer.json has gaps in its ids", broken(speakers, tmp_path / "h", hole))
    (tmp_path / "h" / "tokenizer.json").unlink()
    refused(union_of, r"has no tokenizer.json", speakers | {"base": str(tmp_path / "h")})
    refused(
        union_of,
        r"put its tokenizer beside",
        speakers | {"c": str(tmp_path / "h")} | {"base": speakers["b"]},
    )
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    (tmp_path / "r" / "config.json").write_text(json.dumps(config | {"vocab_size": 5}))
    refused(union_of, r"vocab_size 5 tokens", speakers | {"base": str(tmp_path / "r")})


def test_without_a_tokenizer_setting_other_vocabularies_are_refused(
    speakers: dict[str, str], tmp_path: Path
) -> None:
    def swap(data: Any) -> None:
        vocabulary = data["model"]["vocab"]
        vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]

    other = broken(speakers, tmp_path / "swapped", swap)["base"]
    with pytest.raises(ConfigError, match=r"with tokenizer_source: union"):
        check_compatible(Checkpoint.open(speakers["base"]), Checkpoint.open(other))
    aligned = align(opened({"base": speakers["base"], "x": other}), TokenizerSpec("base"), "base")
    rows = [m.tensor(EMBED) for m in aligned.models.values()]
    assert torch.equal(rows[0][[4, 5]], rows[1][[5, 4]])


CONVERSATION = [
    {"role": "system", "content": "Sys"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "More"},
]


def rendered(template: str, conversation: list[dict[str, str]], prompt: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    names = {"bos_token": "<s>", "eos_token": "</s>"}
    texts, _ = render_jinja_template(
        [conversation], chat_template=template, add_generation_prompt=prompt, **names
    )
    return str(texts[0])


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_named_templates_are_those_of_mergekit_up_to_white_space(name: str) -> None:
    assert set(TEMPLATES) == set(CHAT_TEMPLATES)
    assert (
        rendered(TEMPLATES[name], CONVERSATION, True)
        .strip()
        .startswith(
            {
                "alpaca": "Sys\n\n### Instruction:\nHi\n\n### Response:\nYo",
                "exaone": "[|system|]Sys[|e",
            }.get(name, "<")
        )
    )
    templates = pytest.importorskip("mergekit._data.chat_templates")
    theirs = (Path(templates.__path__[0]) / f"{name}.jinja").read_text()
    for start in (0, 1):
        for end in (2, 3, 4):
            for prompt in (True, False):
                talk = CONVERSATION[start:end]
                ours, other = (rendered(t, talk, prompt) for t in (TEMPLATES[name], theirs))
                assert "".join(ours.split()) == "".join(other.split())


def test_chat_templates_are_found_chosen_and_written(tmp_path: Path) -> None:
    folders = []
    for i, (file, text) in enumerate(
        [
            ("tokenizer_config.json", json.dumps({"chat_template": "{{ one }} \n"})),
            ("chat_template.jinja", "{{ two }}"),
            (
                "tokenizer_config.json",
                json.dumps({"chat_template": [{"name": "default", "template": "{{ one }}"}]}),
            ),
            ("tokenizer_config.json", "{}"),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / file).write_text(text)
        folders.append((str(i), folder))
    assert chat_template("auto", folders[1:]) == "{{ two }}"  # the first of equally many
    assert chat_template("auto", folders) == "{{ one }}"
    assert chat_template("auto", folders[3:]) is None
    assert chat_template(None, folders) is None
    assert chat_template("chatml", folders) == TEMPLATES["chatml"]
    assert chat_template("{{ my own template }}", folders) == "{{ my own template }}"
    write_chat_template("{{ new }}", folders[0][1])
    assert (folders[0][1] / "chat_template.jinja").read_text() == "{{ new }}"
    assert json.loads((folders[0][1] / "tokenizer_config.json").read_text()) == {
        "chat_template": "{{ new }}"
    }
    (tmp_path / "3" / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        chat_template("auto", folders)
