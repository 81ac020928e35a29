"""The house: which package may import what, and what no source file may contain."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evoaim

ROOT = Path(evoaim.__file__).parents[1]
PACKAGES = ("evoaim", "search_spaces", "fitness")
FILES = {
    f.relative_to(ROOT).as_posix(): f.read_text(encoding="utf-8")
    for folder in (*PACKAGES, "tests", "experiments")
    for f in sorted((ROOT / folder).rglob("*.py"))
}
SOURCES = {n: ast.parse(t) for n, t in FILES.items() if n.split("/")[0] in PACKAGES}
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pymoo", "optuna", "plotly", "numpy"}

# module -> the files that may import it
HOMES = {
    "evoaim": r"evoaim/.*",
    "fitness": r"(evoaim|fitness)/.*",
    "search_spaces": r"(evoaim|search_spaces)/.*",
    "torch": r"evoaim/.*|fitness/(harness|texts|_\w+)\.py",
    "transformers": r"evoaim/.*|fitness/(harness|texts|_\w+)\.py",
    "lm_eval": r"fitness/(harness|texts|_\w+)\.py",
    "pymoo": r"evoaim/(optimizers/\w+|ledger)\.py",
    "optuna": r"evoaim/(optimizers/\w+|dashboard|gene_importance|journal)\.py|"
    r"evoaim/(ledger|records|row\w+|storage)\.py",
    "sqlalchemy": r"evoaim/(row\w+|storage)\.py",
    "optuna_dashboard": r"evoaim/(ledger|dashboard)\.py",
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    ("torch", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("yaml", "safe_load"),
    ("", "eval"),
    ("", "exec"),
}
STRICT_YAML = "search_spaces/strict_yaml.py"


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield str(node.module).split(".")[0]


IMPORTS = {name: set(imports(tree)) for name, tree in SOURCES.items()}


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                yield owner, name, node
            case ast.Name(id=name):
                yield "", name, node
            case ast.Attribute(attr=name):
                yield "?", name, node


@pytest.mark.parametrize("module", HOMES)
def test_every_import_follows_the_arrows(module: str) -> None:
    users = [name for name, imported in IMPORTS.items() if module in imported]
    assert [n for n in users if not re.fullmatch(HOMES[module], n)] == []


def test_search_spaces_need_only_yaml_and_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "yaml", "search_spaces"}
    for name, imported in IMPORTS.items():
        if name.startswith("search_spaces/"):
            assert imported <= allowed, name


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import evoaim; evoaim.__version__", HEAVY),
        ("import search_spaces.build, search_spaces.recipe", {*HEAVY, "evoaim", "fitness"}),
        ("import fitness.scheme, fitness.promotion, fitness.scorers", HEAVY - {"numpy"}),
        ("import evoaim.front, evoaim.run_dir, evoaim.registry", HEAVY - {"numpy"}),
        ("from evoaim.cli import main; sys.argv = ['evoaim', '--help']; main()", HEAVY),
    ],
    ids=["evoaim", "search_spaces", "fitness", "pure", "help"],
)
def test_light_imports_stay_light(code: str, absent: set[str]) -> None:
    program = f"""import sys
try:
    {code}
except SystemExit:
    pass
print(*sorted({absent!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""


def test_nothing_runs_code_from_a_file() -> None:
    for name, tree in SOURCES.items():
        assert not FORBIDDEN_IMPORTS & IMPORTS[name], name
        for owner, called, node in calls(tree):
            assert (owner, called) not in FORBIDDEN_CALLS, f"{name}:{node.lineno}"
            assert (owner, called) != ("yaml", "load") or name == STRICT_YAML, name
            for k in node.keywords:
                trusting = k.arg in ("trust_remote_code", "allow_pickle")
                assert not trusting or ast.unparse(k.value) == "False", f"{name}:{node.lineno}"
    loads = [node for _, called, node in calls(SOURCES[STRICT_YAML]) if called == "load"]
    assert [ast.unparse(n.args[1]) for n in loads] == ["_Loader"]


@pytest.mark.parametrize("name", FILES)
def test_files_are_short_and_say_what_they_are_for(name: str) -> None:
    if not name.startswith("tests/"):
        assert len(FILES[name].splitlines()) <= 300
    purpose = ast.get_docstring(ast.parse(FILES[name]))
    assert purpose is not None
    assert purpose.split("\n\n")[0].rstrip().endswith((".", ":", "?"))
