"""Exports in the hands of others: transformers 4.57 reads them, mergekit rebuilds them."""

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evoaim import Recipe
from evoaim.export import Exported, export_model
from evoaim.export.texts import MERGEKIT
from evoaim.merger import Merger
from evoaim.registry import METHODS
from tests.architectures import ARCHITECTURES, save, tokens

OLD = "transformers==4.57.6"
ASKED = "EVOAIM_PEERS"  # set to make the environment of the older transformers

READ = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, logging
logging.set_verbosity_error()
told = {}
for folder in sys.argv[2:]:
    config = AutoConfig.from_pretrained(folder)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True
    )
    with torch.no_grad():
        logits = model.eval()(torch.tensor(json.loads(sys.argv[1]))).logits
    told[folder] = {
        "theta": getattr(config, "rope_theta", None),
        "tied": config.tie_word_embeddings,
        "vocabulary": config.vocab_size,
        "odd": [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]],
        "logits": logits.tolist(),
    }
print(json.dumps(told))
"""
TOKENIZE = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
talk = tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
print(json.dumps([len(tokenizer), tokenizer("w1 w2 w40 nothing").input_ids, talk]))
"""


@pytest.fixture(scope="session")
def old_python(pytestconfig: pytest.Config) -> Path:
    """A Python with transformers 4.57; torch is this environment's."""
    if not os.environ.get(ASKED):
        pytest.skip(f"set {ASKED}=1 to install {OLD} into an environment of its own")
    home = Path(str(pytestconfig.cache.mkdir("transformers-4.57")))  # type: ignore[union-attr]
    python = home / "venv" / "bin" / "python"
    if not (home / "complete").is_file():
        venv.create(home / "venv", with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", OLD]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{OLD} cannot be installed here: {done.stderr.strip()[-300:]}")
        (home / "complete").touch()
    return python


# Rotary embeddings that transformers 4 and 5 write down in different ways.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "longrope", "rope_theta": 1e4}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ARCHITECTURES}
VARIANTS |= {
    "llama scaled": ("llama", {"rope_parameters": LLAMA3}),
    "phi3 long": (
        "phi3",
        {
            "rope_parameters": LONG | {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            "original_max_position_embeddings": 64,
        },
    ),
    "gpt_neox part": (
        "gpt_neox",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 7e4,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    "gemma3 scaled": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ),
}


def told_by(python: Path, script: str, *arguments: str | Path) -> Any:
    """What a script prints in the older environment, as JSON."""
    torch_home = str(Path(torch.__file__).parents[1])
    script = f"import sys; sys.path.append({torch_home!r})\n{script}"
    command = [python, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def merged(base: Path, expert: Path, out: Path) -> Path:
    """The mean of two models, exported."""
    half = {"parameters": {"weight": 0.5}}
    models = [{"model": str(m)} | half for m in (base, expert)]
    recipe = Recipe.from_dict({"merge_method": "linear", "models": models})
    merger = Merger.open(str(base), {"other": str(expert)}, "cpu")
    return export_model(merger, Exported(recipe, {}), out, "float32")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_older_transformers_reads_every_architecture(old_python: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folders: dict[str, Path] = {}
    for name, (architecture, changes) in VARIANTS.items():
        home = tmp_path / name
        base, expert = (save(home / m, architecture, s, **changes) for s, m in enumerate("ab"))
        folders[name] = merged(base, expert, home / "out")
    told = told_by(old_python, READ, json.dumps(tokens().tolist()), *folders.values())
    for name, folder in folders.items():
        old, config = told[str(folder)], AutoConfig.from_pretrained(folder)
        rope = getattr(config, "rope_parameters", None) or {}
        theta = rope.get("full_attention", rope).get("rope_theta")
        assert theta is None or old["theta"] == theta, name
        assert old["tied"] == config.tie_word_embeddings, name
        assert old["vocabulary"] == config.vocab_size, name
        assert old["odd"] == [], name
        with torch.no_grad():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            logits = model(tokens()).logits
        torch.testing.assert_close(torch.tensor(old["logits"]), logits, msg=lambda m, n=name: n + m)


@pytest.mark.peers
def test_the_older_transformers_reads_the_tokenizer(
    old_python: Path, family: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    base = Path(shutil.copytree(family["base"], tmp_path / "base"))
    (base / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    out = merged(base, Path(family["a"]), tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(out)
    expected = [len(ours), ours("w1 w2 w40 nothing").input_ids, "w1!"]
    assert told_by(old_python, TOKENIZE, out) == expected


MERGES: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.3, 0.9]},
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 0.6, "density": 0.4},
    "slerp": {"t": [0.2, 0.7]},
    "karcher": {},
    "nuslerp": {"weight": 0.6},
}


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # mergekit's own
@pytest.mark.parametrize("method", MERGES)
def test_mergekit_rebuilds_the_export(
    method: str, family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mergekit", reason="needs the peers extra")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    experts = ["a"] if method == "slerp" else ["a", "b"]
    data = {"merge_method": method, "parameters": MERGES[method]}
    data |= {"models": [{"model": family[e]} for e in experts]}
    data |= {"base_model": family["base"]} if method not in ("linear", "karcher") else {}
    merger = Merger.open(family["base"], {family[e]: family[e] for e in experts}, "cpu")
    recipe = Recipe.from_dict(data)
    out = export_model(merger, Exported(recipe, {}), tmp_path / "out", "float32")
    monkeypatch.chdir(Path(family["base"]).parent)  # the export names models without their parents
    text = (out / "mergekit_config.yml").read_text()
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(text)),
        str(tmp_path / "theirs"),
        MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False),
    )
    ours = load_file(out / "model.safetensors")
    files = (tmp_path / "theirs").glob("*.safetensors")
    theirs = {k: v for f in files for k, v in load_file(f).items()}
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        torch.testing.assert_close(
            ours[name], expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
        )


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # mergekit's own
def test_which_methods_mergekit_has() -> None:
    registry = pytest.importorskip("mergekit.merge_methods", reason="needs the peers extra")
    theirs = {method.spec.name for method in registry.registered_methods()}
    assert theirs & set(METHODS) == MERGEKIT & set(METHODS)
    assert theirs >= MERGEKIT
