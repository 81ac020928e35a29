"""The command line: exit statuses, one clear message for each mistake, nothing half-written."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from evoaim import __version__
from evoaim.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evoaim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evoaim", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from evoaim import Experiment, run_search

    folder = tmp_path_factory.mktemp("runs") / "finished"
    run_search(Experiment.from_dict({**tiny, "budget": {"candidates": 10}}), folder)
    return folder


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


MISTAKES: list[tuple[str, str]] = [
    ("budget.candidates=0", r"budget\.candidates: .*greater than or equal to 1, got 0"),
    ("modles={}", r"unknown key 'modles'; did you mean 'models'\?"),
    ("models.dtype=int8", r"models\.dtype: .*'float32', 'bfloat16' or 'float16', got 'int8'"),
    ("models.experts={}", r"models\.experts: at least one expert expected"),
    ("models.base=nowhere", r"model 'nowhere': no such folder"),
    ("models.device=tpu", r"device 'tpu'"),
    ("models.placement=maped", r"models\.placement: .*'pinned' or 'mapped', got 'maped'"),
    ("models.placement=pinned", r"'pinned' is for accelerators, the device here is cpu"),
    ("search_space.preset=tie_aim", r"unknown preset 'tie_aim'; did you mean 'ties_aim'\?"),
    ("search_space.layer_groups=9", r"layer_groups: must lie in \[1, 3\].*got 9"),
    ("search_space.module_types=[mpl]", r"unknown module type 'mpl'; did you mean 'mlp'\?"),
    ("search_space.genes={density: {low: 0.9, high: 0.1}}", r"genes\.density: low must be below"),
    ("search_space.genes={densty: {}}", r"unknown parameter 'densty'; did you mean 'density'\?"),
    ("search_space={method: tise, genes: {weight: {}}}", r"unknown merge method 'tise'"),
    ("objectives=[{name: x, tasks: [oen]}]", r"unknown task 'oen'.*did you mean.*one"),
    ("objectives.0.metric=acuracy", r"acuracy.*did you mean.*acc"),
    ("objectives.1.name=one", r"names must be distinct"),
    ("fitness.estimator.documents=41", r"41 documents asked for, 40 available"),
    (
        "fitness.estimator.kind=sample_men",
        r"unknown estimator 'sample_men'; did you mean 'sample_mean'\?",
    ),
    ("optimizer={kind: ga}", r"'ga' handles one, got 2"),
    ("optimizer.population=1", r"optimizer\.population: .*got 1"),
    ("calibration=null", r"omega, which needs calibration text"),
    ("calibration.data=none.jsonl", r"'none\.jsonl': no such file"),
    ("calibration.documents=61", r"61 asked, .* holds 60"),
    ("storage=sqlite:////nowhere/at/all.db", r"storage: the study cannot be opened"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[m for m, _ in MISTAKES])
def test_a_mistake_in_the_experiment(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, change: str, message: str
) -> None:
    file = write(tmp_path / "experiment.yaml", tiny)
    status, _, err = evoaim("search", file, "--run-dir", tmp_path / "run", "--set", change)
    assert status == 2
    said = [line for line in err.splitlines() if line.startswith("evoaim: ")]
    assert len(said) == 1, err
    assert re.search(message, said[0]), said
    assert "Traceback" not in err
    assert not list(tmp_path.glob("run/study.db"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"experiment\.yaml: line \d+, column \d+"),
        ("name: a\nname: b", "duplicate key 'name'"),
        ("a: &a [1]\nb: [*a, *a]", "aliases"),
        ("- 1", "expected 'key: value'"),
        ("", "is empty; expected 'key: value'"),
        ("name: !!python/object/apply:os.system [ls]", "tags are not accepted"),
    ],
)
def test_files_that_are_no_experiment(evoaim: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "experiment.yaml").write_text(text)
    status, _, err = evoaim("validate", tmp_path / "experiment.yaml")
    assert status == 2
    assert re.search(message, err)


def test_missing_files_and_folders(evoaim: Run, tmp_path: Path) -> None:
    for arguments in (
        ("search", tmp_path / "none.yaml"),
        ("merge", tmp_path / "none.yaml", tmp_path / "out"),
        ("front", tmp_path),
        ("report", tmp_path / "none"),
        ("export", tmp_path, "--trial", 0, tmp_path / "out"),
        ("calibrate", tmp_path / "no" / "model", "--data", tmp_path / "x", "--out", tmp_path / "y"),
    ):
        status, _, err = evoaim(*arguments)
        assert status == 2, arguments
        assert re.search("no such f|not a run directory", err), err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_search_says_how_to_continue_in_one_line(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evoaim.search.run_search", interrupted)
    monkeypatch.setattr("evoaim.commands.ERR", Console(stderr=True, width=40))
    file = write(tmp_path / "an experiment.yaml", tiny)
    status, _, err = evoaim("search", file, "--run-dir", tmp_path / "run")
    assert status == 130
    assert f"Continue with: evoaim search '{file}' --run-dir {tmp_path}/run\n" in err


def test_run_directories_that_are_not_ours(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    file = write(tmp_path / "experiment.yaml", {**tiny, "seed": 3})
    status, _, err = evoaim("search", file, "--run-dir", finished)
    assert status == 2
    assert "another experiment" in err
    status, _, err = evoaim("search", file, "--run-dir", tmp_path)
    assert status == 2
    assert "not empty and not a run" in err
    status, _, err = evoaim("search", file, "--run-dir", file)
    assert status == 2
    assert "is a file" in err
    status, _, err = evoaim("search", file, "--run-dir", "/proc/run")
    assert status == 2
    assert "cannot be written" in err


def test_front(evoaim: Run, finished: Path) -> None:
    status, out, _ = evoaim("front", finished, "--json")
    assert status == 0
    assert json.loads(out) == json.loads((finished / "front.json").read_text())
    status, out, _ = evoaim("front", finished, "--pick", "one=1", "--json")
    assert status == 0
    (picked,) = json.loads(out)
    front = json.loads((finished / "front.json").read_text())
    assert picked["search"]["one"]["value"] == max(e["search"]["one"]["value"] for e in front)
    status, out, _ = evoaim("front", finished, "--pick", "knee")
    assert status == 0
    assert out.count("trial") == 1
    status, _, err = evoaim("front", finished, "--pick", "onne=1")
    assert status == 2
    assert "did you mean 'one'" in err
    status, _, err = evoaim("front", finished, "--pick", "best")
    assert status == 2
    assert "knee, or NAME=WEIGHT" in err


def test_a_run_without_candidates_says_so(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evoaim.search.score_parents", interrupted)
    run = tmp_path / "run"
    status, _, _ = evoaim("search", write(tmp_path / "x.yaml", tiny), "--run-dir", run)
    assert status == 130
    status, out, err = evoaim("front", run)
    assert (status, out) == (0, "")
    assert err == "no candidate has finished yet\n"
    status, _, err = evoaim("export", run, "--trial", 0, tmp_path / "out")
    assert status == 2
    assert "trial 0: no candidate of this run has finished yet" in err


def test_evaluate_agrees_with_the_run(
    evoaim: Run, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    file = write(tmp_path / "experiment.yaml", tiny)
    entry = json.loads((finished / "front.json").read_text())[0]
    recipe = finished / "recipes" / f"trial_{entry['trial']}.yaml"
    for flags, split in (((), "search"), (("--report-set",), "report")):
        status, out, _ = evoaim("evaluate", recipe, "--experiment", file, *flags)
        assert status == 0
        assert f"{entry[split]['one']['value']:.4f}" in out
    status, out, _ = evoaim("evaluate", "b", "--experiment", file)
    assert status == 0
    parents = {p["name"]: p for p in json.loads((finished / "parents.json").read_text())}
    assert f"{parents['b']['search']['two']['value']:.4f}" in out


def test_evaluate_takes_a_model_that_the_experiment_does_not_name(
    evoaim: Run, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    file = write(tmp_path / "experiment.yaml", {**tiny, "keep": ["one >= 0.1 * b"]})
    other = tmp_path / "copy"
    shutil.copytree(tiny["models"]["experts"]["b"], other)
    status, out, _ = evoaim("evaluate", other, "--experiment", file)
    assert status == 0
    parents = {p["name"]: p for p in json.loads((finished / "parents.json").read_text())}
    assert f"{parents['b']['search']['one']['value']:.4f}" in out


def test_validate_says_what_would_be_run(evoaim: Run, tiny: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "experiment.yaml", tiny)
    status, out, _ = evoaim("validate", file)
    assert status == 0
    cost = ("one 40, two 40", "40 documents a candidate", "22 candidates")
    for fact in ("memory", "omega: [0, 1]", *cost, "valid"):
        assert fact in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experiment.yaml"]


def test_validate_tells_optimizer_storage_and_warm_start(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    stages = [{"kind": "random", "candidates": 12}, {"kind": "nsga2", "population": 4}]
    changes = {"optimizer": stages, "warm_start": str(finished), "budget": {"candidates": 12}}
    changes["storage"] = f"sqlite:///{tmp_path}/study.db"
    file = write(tmp_path / "experiment.yaml", {**tiny, **changes})
    status, out, err = evoaim("validate", file)
    assert status == 0, err
    assert "optimizer   random for 12 candidates, then nsga2" in out
    assert re.search(r"warm start  [1-9]\d* genomes of earlier runs", out)
    assert re.search(r"storage     sqlite:///", out)
    assert "optimizer.1 (nsga2) never begins" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experiment.yaml"]
    status, out, _ = evoaim("validate", file, "--set", "budget.candidates=13")
    assert "never begins" not in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("storage=mydb.sqlite", r"storage: 'mydb\.sqlite' is no storage URL; allowed are sqlite"),
        ("storage=foo://bar", r"storage: 'foo' is no kind of storage; allowed are sqlite"),
        ("storage=mysql://me@host/db", r"storage: .* needs the module 'MySQLdb'"),
        ("storage=sqlite:////nowhere/at/all.db", r"storage: .*cannot be opened.*'/nowhere/at'"),
        ("warm_start=/nowhere", r"warm_start: '/nowhere'"),
    ],
)
def test_validate_refuses_what_search_refuses(
    evoaim: Run, tiny: dict[str, Any], tmp_path: Path, change: str, message: str
) -> None:
    file = write(tmp_path / "experiment.yaml", tiny)
    status, out, err = evoaim("validate", file, "--set", change)
    assert status == 2
    assert re.search(message, err), err
    assert not out.endswith("valid\n")
    status, _, err = evoaim("search", file, "--run-dir", tmp_path / "run", "--set", change)
    assert status == 2
    assert re.search(message.partition(".*")[0], err), err


def test_calibrate_and_merge(
    evoaim: Run, family: dict[str, str], tiny: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    data, out = tiny["calibration"]["data"], tmp_path / "importance.safetensors"
    size = ("--documents", 40, "--block-size", 16)
    status, _, err = evoaim("calibrate", family["base"], "--data", data, "--out", out, *size)
    assert status == 0, err
    recipe = write(
        tmp_path / "recipe.yaml",
        {
            "merge_method": "ties",
            "base_model": family["base"],
            "models": [
                {"model": family[n], "parameters": {"weight": 0.5, "density": 0.5}} for n in "ab"
            ],
            "parameters": {"int8_mask": True},
            "aim": {"omega": 0.4, "importance": str(out)},
        },
    )
    status, _, err = evoaim("merge", recipe, tmp_path / "merged", "--dtype", "bfloat16")
    assert status == 0, err
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    status, _, err = evoaim("merge", recipe, tmp_path / "merged")
    assert status == 2
    assert "exists already" in err
    status, _, err = evoaim("merge", recipe, tmp_path / "other", "--dtype", "int4")
    assert status == 2
    assert "one of float32, bfloat16, float16" in err


def test_models_that_are_refused_while_searching(
    evoaim: Run, tiny: dict[str, Any], family: dict[str, str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(family["a"], cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    pickled = tmp_path / "pickled"
    shutil.copytree(family["a"], pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    file = write(tmp_path / "experiment.yaml", tiny)
    for folder, message in ((cut, "damaged or truncated"), (pickled, "pickle")):
        change = f"models.experts.a={folder}"
        status, _, err = evoaim("search", file, "--run-dir", tmp_path / "run", "--set", change)
        assert status == 2
        assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["methods", "spaces", "optimizers", "estimators", "panels"])
def test_list(evoaim: Run, what: str) -> None:
    status, out, _ = evoaim("list", what)
    assert status == 0
    expected = {
        "methods": "density",
        "spaces": "mixed_aim",
        "optimizers": "population",
        "estimators": "documents",
        "panels": "guard: default 0.2",
    }
    assert expected[what] in out


def test_lists_explain_options_and_print_whole_numbers(evoaim: Run) -> None:
    _, out, _ = evoaim("list", "optimizers")
    assert "    objectives: one or more\n" in out
    assert "    options: How many candidates are asked at once.\n    batch: default 1\n" in out
    assert "    population: default null\n" in out
    assert "candidates: required; after so many, seeds not counted, the next one begins" in out
    for what in ("optimizers", "methods", "spaces", "estimators", "panels"):
        _, out, _ = evoaim("list", what)
        assert not re.search(r"(default|fixed at) [\d]+\.0\b|default None", out)
        assert "options: None" not in out


def test_version_and_short_help(evoaim: Run) -> None:
    assert evoaim("--version") == (0, f"evoaim {__version__}\n", "")
    assert evoaim("-h") == evoaim("--help")
    assert "The demo zoo" in evoaim("zoo", "-h")[1]
    assert evoaim("search", "-h") == evoaim("search", "--help")


def test_usage_mistakes(evoaim: Run) -> None:
    for arguments in (("list", "foo"), ("serch",), ("search",), ("search", "x", "--workers", "2")):
        status, _, err = evoaim(*arguments)
        assert status == 2, arguments
        assert err
