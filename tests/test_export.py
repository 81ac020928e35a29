"""Exports: ordinary checkpoints that load elsewhere and score as the candidate did."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evoaim import Experiment, MergeEngine, Recipe, calibrate, run_search
from evoaim.commands import export_command, merge_command
from evoaim.errors import CandidateError, ConfigError
from evoaim.evaluator import Evaluator
from evoaim.export import Exported, export_model, public_names
from evoaim.merger import Merger

TEXT = torch.arange(4, 36).view(2, 16)


@pytest.fixture(scope="module")
def run(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_search(Experiment.from_dict({**tiny, "budget": {"candidates": 12}}), folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[int, Path]:
    """A member of the front with AIM on, and its exported folder."""
    trial = 6  # a seed recipe with omega 0.4
    out = run.parent / "exported"
    export_command(run, trial, out, "cpu")
    return trial, out


def test_the_folder_is_complete(exported: tuple[int, Path], family: dict[str, str]) -> None:
    _, out = exported
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "README.md",
        "recipe.yaml",
        "mergekit_config.yml",
    }
    for name in ("tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (Path(family["base"]) / name).read_bytes()
    ours, theirs = (
        json.loads((folder / "tokenizer_config.json").read_text())
        for folder in (out, Path(family["base"]))
    )
    assert ours == theirs | {"tokenizer_class": "PreTrainedTokenizerFast"}  # for transformers 4
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".exported")]
    umask = os.umask(0)
    os.umask(umask)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_logits_equal_the_candidates(exported: tuple[int, Path], run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trial, out = exported
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    recipe = Recipe.from_yaml(run / "recipes" / f"trial_{trial}.yaml")
    assert recipe.aim is not None
    experts = {s.model: s.model for s in recipe.models}
    engine = MergeEngine.from_pretrained(str(recipe.base_model), experts, "cpu")
    with engine.materialize(recipe) as live:
        assert torch.equal(model.eval()(TEXT).logits, live(TEXT).logits)
    AutoTokenizer.from_pretrained(out)


@pytest.mark.filterwarnings("ignore")  # lm-eval's and datasets' own
def test_lm_eval_gives_the_same_scores(
    exported: tuple[int, Path], run: Path, tiny: dict[str, Any]
) -> None:
    """transformers and lm-eval alone: `simple_evaluate` on the documents of the report set."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    trial, out = exported
    tasks = Path(tiny["fitness"]["task_path"])
    spec = yaml.safe_load((tasks / "one.yaml").read_text())
    files = spec["dataset_kwargs"]["data_files"]
    spec["dataset_kwargs"]["data_files"] = {k: str(tasks / v) for k, v in files.items()}
    lm = HFLM(pretrained=str(out), backend="causal", batch_size=8, device="cpu")
    theirs = simple_evaluate(
        lm,
        tasks=[spec],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    evaluator = Evaluator.of(Experiment.from_dict(tiny)).calibrated()
    recipe = Recipe.from_yaml(run / "recipes" / f"trial_{trial}.yaml")
    ours = evaluator.score(recipe, "report")["one/acc"]
    samples = sorted(theirs["samples"]["one"], key=lambda s: s["doc_id"])
    assert [s["acc"] for s in samples] == ours.total.tolist()
    assert len(samples) == 40


def test_a_random_mask_is_the_same_under_other_names(
    tiny: dict[str, Any], tmp_path: Path, family: dict[str, str]
) -> None:
    from transformers import AutoModelForCausalLM

    space = {"preset": "dare_ties_aim"}
    spec = Experiment.from_dict({**tiny, "search_space": space, "budget": {"candidates": 10}})
    results = run_search(spec, tmp_path / "run")
    trial = results.trials[-1]
    export_command(tmp_path / "run", trial.number, tmp_path / "out", "cpu")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    evaluator = Evaluator.of(spec).calibrated()
    with evaluator.engine.materialize(evaluator.space.decode(trial.genome)) as live:
        assert all(torch.equal(exported[n], p) for n, p in live.named_parameters())


def test_a_moved_run_exports_its_own_importance(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    export_command(tmp_path / "moved", 7, tmp_path / "out", "cpu")
    merge_command(tmp_path / "moved" / "recipes" / "trial_7.yaml", tmp_path / "merged", "cpu", None)
    exported, merged = (
        (tmp_path / n / "model.safetensors").read_bytes() for n in ("out", "merged")
    )
    assert exported == merged


def test_public_names_stay_distinct() -> None:
    assert public_names(["/x/base/final", "/x/math/final", "org/m"]) == {
        "/x/base/final": "base/final",
        "/x/math/final": "math/final",
        "org/m": "org/m",
    }
    assert public_names(["/home/me/base"]) == {"/home/me/base": "base"}


def test_card_and_recipe_say_what_was_done(exported: tuple[int, Path]) -> None:
    _, out = exported
    card = (out / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["base_model"] == ["base", "a", "b", "c"]
    assert "merge" in metadata["tags"]
    assert metadata["base_model_relation"] == "merge"
    config = yaml.safe_load((out / "mergekit_config.yml").read_text())
    assert config["merge_method"] == "ties"
    assert "aim" not in config
    assert "without its AIM step" in (out / "mergekit_config.yml").read_text()
    assert "with Activation-Informed Merging" in card
    recipe = Recipe.from_yaml(out / "recipe.yaml")
    assert recipe.aim is not None
    assert (out / str(recipe.aim.importance)).is_file()
    for file in out.rglob("*"):
        if file.suffix in (".md", ".yaml", ".yml", ".json"):
            assert str(out.parent) not in file.read_text(), f"{file.name} holds a local path"


def test_the_exported_recipe_rebuilds_the_same_weights(
    exported: tuple[int, Path], family: dict[str, str], tmp_path: Path
) -> None:
    _, out = exported
    text = (out / "recipe.yaml").read_text()
    data = yaml.safe_load(text)
    data["base_model"] = family["base"]
    data["models"] = [{**m, "model": family[m["model"]]} for m in data["models"]]
    shutil.copytree(out / "reproduce", tmp_path / "reproduce")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    merge_command(tmp_path / "recipe.yaml", tmp_path / "again", "cpu", None)
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (out / "model.safetensors").read_bytes()


def test_config_reads_the_same_in_transformers_4_and_5(exported: tuple[int, Path]) -> None:
    config = json.loads((exported[1] / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["dtype"] == config["torch_dtype"] == "float32"


def halves(family: dict[str, str], method: str = "task_arithmetic") -> Recipe:
    """Half of the way from the base to the expert a."""
    models = [{"model": family["a"], "parameters": {"weight": 0.5}}]
    return Recipe.from_dict(
        {"merge_method": method, "base_model": family["base"], "models": models}
    )


def test_shards(family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("evoaim.export.shards.SHARD_BYTES", 20_000)
    merger = Merger.open(family["base"], {"a": family["a"]}, "cpu")
    out = export_model(merger, Exported(halves(family), {}), tmp_path / "out", "bfloat16")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_bfloat16_is_one_rounding_of_the_candidate(family: dict[str, str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    experts = {"a": family["a"]}
    engine = MergeEngine.from_pretrained(family["base"], experts, "cpu", "bfloat16")
    out = export_model(engine.merger, Exported(halves(family), {}), tmp_path / "out", "bfloat16")
    exported = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).eval()
    with engine.materialize(halves(family)) as live:
        assert torch.equal(exported(TEXT).logits, live(TEXT).logits)
    exact = export_model(engine.merger, Exported(halves(family), {}), tmp_path / "exact", "float32")
    rounded, whole = (load_file(f / "model.safetensors") for f in (out, exact))
    assert all(torch.equal(rounded[k], whole[k].bfloat16()) for k in whole)


def test_nothing_is_overwritten_and_nothing_half_written(
    run: Path, tmp_path: Path, family: dict[str, str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    with pytest.raises(ConfigError, match="exists already"):
        export_command(run, 7, full, "cpu")
    with pytest.raises(ConfigError, match="trial 99: no finished trial"):
        export_command(run, 99, tmp_path / "new", "cpu")
    bad = tmp_path / "bad.yaml"
    models = [{"model": family["a"], "parameters": {"weight": 1e30}}]
    data = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    bad.write_text(yaml.safe_dump(data | {"parameters": {"lambda": 1e30}}))
    with pytest.raises(RuntimeError, match="not finite"):
        merge_command(bad, tmp_path / "new", "cpu", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "full"]


def test_an_interrupted_export_leaves_nothing(
    family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merger = Merger.open(family["base"], {"a": family["a"]}, "cpu")
    calls, real = [], Merger.merge_into

    def third_time(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(Merger, "merge_into", third_time)
    with pytest.raises(KeyboardInterrupt):
        export_model(merger, Exported(halves(family), {}), tmp_path / "out", "float32")
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(family: dict[str, str], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    merger = Merger.open(family["base"], {"a": family["a"]}, "cpu")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a shard needs more
    try:
        with pytest.raises(ConfigError, match=r"cannot be written \(.*32\.\d MiB are needed"):
            export_model(merger, Exported(halves(family), {}), tmp_path / "out", "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_damaged_expert_is_named(family: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(family["a"], tmp_path / "a")
    weights = load_file(tmp_path / "a" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    merger = Merger.open(family["base"], {"a": str(tmp_path / "a")}, "cpu")
    recipe = halves({**family, "a": str(tmp_path / "a")})
    words = r"model '.*/a': tensor 'model\.layers\.1\.mlp\.up_proj\.weight' in model\.safetensors"
    with pytest.raises(CandidateError, match=words + ".* NaN"):
        export_model(merger, Exported(recipe, {}), tmp_path / "out", "float32")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_importance_file_of_a_recipe(family: dict[str, str], tmp_path: Path) -> None:
    importance = calibrate(family["base"], [TEXT])
    assert importance is not None
    importance.save(tmp_path / "importance.safetensors")
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": family["a"], "parameters": {"weight": 1.0}}]
    data = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    recipe.write_text(
        yaml.safe_dump(data | {"aim": {"omega": 0.5, "importance": "importance.safetensors"}})
    )
    merge_command(recipe, tmp_path / "out", "cpu", "float32")
    assert (tmp_path / "out" / "reproduce" / "importance.safetensors").is_file()
