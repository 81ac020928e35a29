"""The experiment file: what is accepted, what is refused and with which words, and --set."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from evoaim.config import Experiment
from evoaim.errors import USER_ERRORS, ConfigError
from search_spaces import strict_yaml

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"
REMOVE = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The quickstart with values at dotted paths replaced."""
    data: Any = deepcopy(strict_yaml.read(QUICKSTART))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = data
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if value is REMOVE:
            del place[last]
        else:
            place[last] = value
    return data


def test_the_quickstart_is_valid_and_writes_back() -> None:
    experiment = Experiment.from_yaml(QUICKSTART)
    assert list(experiment.models.experts) == ["math", "italian", "japanese"]
    assert experiment.budget.candidates == 128
    assert experiment.stages()[0].params.population == 16
    assert experiment.fitness.plan(0).estimator[1].documents == 20
    resolved = experiment.to_dict()
    assert Experiment.from_dict(resolved) == experiment
    again = Experiment.from_dict(strict_yaml.parse(strict_yaml.dump(resolved), "here"))
    assert again == experiment
    assert again.to_dict() == resolved


REFUSED: list[tuple[dict[str, Any], str]] = [
    # unknown keys, at every level
    ({"modles": {}}, r"modles: unknown key 'modles'; did you mean 'models'\? \(allowed: budget,"),
    ({"optimizer": REMOVE, "optimiser": {}}, r"unknown key 'optimiser'; did you mean 'optimizer'"),
    ({"models.bsae": "x"}, r"models.bsae: unknown key 'bsae'; did you mean 'base'\?"),
    ({"search_space.layers": 2}, r"search_space.layers: unknown key.*'layer_groups'"),
    ({"calibration.document": 2}, r"calibration.document: unknown key.*'documents'"),
    ({"objectives.0.task": "x"}, r"objectives.0.task: unknown key 'task'; did you mean 'tasks'"),
    ({"fitness.batchsize": 2}, r"fitness.batchsize: unknown key.*'batch_size'"),
    ({"budget.candidate": 2}, r"budget.candidate: unknown key.*'candidates'"),
    ({"optimizer.popluation": 2}, r"optimizer: unknown parameter of nsga2 .*'population'"),
    ({"fitness.estimator.document": 2}, r"fitness.estimator: unknown parameter.*'documents'"),
    ({"optimizer.kind": "tpes"}, r"optimizer.kind: unknown optimizer 'tpes'; did you mean 'tpe'"),
    ({"fitness.estimator.kind": "mean"}, r"fitness.estimator.kind: unknown estimator 'mean'"),
    ({"search_space.preset": "ties"}, r"unknown preset 'ties'; did you mean 'ties_aim'\?"),
    # missing
    ({"name": REMOVE}, r"name: is missing"),
    ({"models.base": REMOVE}, r"models.base: is missing"),
    ({"objectives.1.tasks": REMOVE}, r"objectives.italian.tasks: at least one task expected, or"),
    ({"optimizer": {}}, r"optimizer.kind: one of .*nsga2, .*expected, got None"),
    ({"search_space.preset": None}, r"exactly one of preset, path and method expected, got none"),
    ({"search_space.method": "ties"}, r"exactly one of .* got preset, method \(presets: bread"),
    ({"models.experts": {}}, r"models.experts: at least one expert expected, got none"),
    ({"objectives": []}, r"objectives: at least one expected, got none"),
    ({"objectives.0.tasks": []}, r"objectives.math.tasks: at least one task expected"),
    ({"budget": {}}, r"budget: give candidates, minutes or plateau"),
    ({"calibration": None}, r"calibration: the space has AIM's omega"),
    # wrong type
    ({"models": 5}, r"models: 'key: value' lines expected, got 5"),
    ({"calibration": "x"}, r"calibration: 'key: value' lines expected, got 'x'"),
    ({"objectives": 5}, r"objectives: a list expected, got 5"),
    ({"objectives": ["math"]}, r"objectives.0: 'key: value' lines expected, got 'math'"),
    ({"objectives.0.tasks": "t"}, r"objectives.0.tasks: a list expected, got 't'"),
    ({"models.experts": ["a"]}, r"models.experts: 'key: value' lines expected"),
    ({"models.experts.math": 5}, r"models.experts.math: input should be a valid string, got 5"),
    ({"models.experts": {1: "x"}}, r"models.experts.1.*valid string, got 1"),
    ({"models": {1: 2, "base": "x", "experts": {"a": "y"}}}, r"models.1: keys should be strings"),
    ({"seed": "x"}, r"seed: input should be a valid integer.*got 'x'"),
    ({"seed": 1.5}, r"seed: input should be a valid integer.*got 1.5"),
    ({"optimizer": "nsga2"}, r"optimizer: a block such as {kind: nsga2} .*'nsga2'"),
    ({"optimizer": "tpee"}, r"optimizer: a block such as {kind: nsga2} expected.*got 'tpee'"),
    (
        {"optimizer": [{"kind": "random"}, {"kind": "nsga2"}]},
        r"optimizer.0.candidates: is missing; give the number of candidates",
    ),
    ({"optimizer.kind": ["ga"]}, r"optimizer.kind: one of .* expected, got \['ga'\]"),
    ({"optimizer.population": "x"}, r"optimizer.population: input should be a valid integer"),
    ({"search_space.genes": [1]}, r"search_space.genes: 'key: value' lines expected"),
    ({"search_space": {"method": 5}}, r"search_space.method: a name or a list of names expected"),
    ({"search_space": {"method": ["ties", 5]}}, r"search_space.method: a name or a list"),
    ({"search_space": {"method": "tise"}}, r"unknown merge method 'tise'; did you mean 'ties'"),
    # out of range
    ({"budget.candidates": 0}, r"budget.candidates: .*greater than or equal to 1, got 0"),
    ({"budget.minutes": 0}, r"budget.minutes: .*greater than 0, got 0"),
    ({"budget.minutes": float("nan")}, r"budget.minutes: .*greater than 0, got nan"),
    ({"seed": -1}, r"seed: .*greater than or equal to 0"),
    ({"seed": 2**32}, r"seed: .*less than or equal to 4294967295"),
    ({"search_space.layer_groups": 0}, r"search_space.layer_groups: .*greater than or equal to 1"),
    ({"calibration.documents": 0}, r"calibration.documents"),
    ({"calibration.block_size": 1}, r"calibration.block_size: .*greater than or equal to 2"),
    ({"fitness.num_fewshot": -1}, r"fitness.num_fewshot"),
    ({"fitness.batch_size": 0}, r"fitness.batch_size"),
    ({"fitness.estimator.documents": 0}, r"fitness.estimator.documents"),
    ({"optimizer.population": 1}, r"optimizer.population: .*greater than or equal to 2, got 1"),
    ({"models.dtype": "float64"}, r"models.dtype: .*'float32', 'bfloat16' or 'float16'"),
    ({"objectives.0.goal": "max"}, r"objectives.0.goal: .*'minimize' or 'watch', got 'max'"),
    ({"fitness.chat_template": True}, r"fitness.chat_template: .*'auto', 'yes' or 'no', got True"),
    # objectives, panels, racing, promotion, constraints
    ({"objectives.0.text": "x.txt"}, r"objectives.math: has both tasks and text"),
    ({"objectives.0.goal": "watch", "objectives.1.goal": "watch"}, r"objectives: all are watched"),
    ({"fitness.panel": {"kind": "disagree"}}, r"fitness.panel.kind: unknown panel 'disagree'; did"),
    ({"fitness.panel": {"kind": "stratified"}}, r"fitness.panel.by: is missing"),
    ({"fitness.panel": {"kind": "random", "n": 3}}, r"fitness.panel: unknown parameter of random"),
    ({"fitness.racing": {"kind": "pocok"}}, r"fitness.racing.*kind: .*'pocock' or 'strict'"),
    ({"fitness.racing": {"looks": [0.6, 0.3]}}, r"fitness.racing.looks: increasing shares"),
    ({"fitness.racing": {"alpha": 0.7}}, r"fitness.racing.alpha: .*less than 0.5, got 0.7"),
    ({"fitness.promotion": {"share": 2}}, r"fitness.promotion.*share: .*less than or equal to 1"),
    ({"fitness.racing": {"look": [0.5]}}, r"fitness.racing.look: unknown key .*'looks'"),
    ({"fitness.racing": "strict"}, r"fitness.racing: 'key: value' lines .*or yes or no, got"),
    ({"fitness.promotion": {"shares": 1}}, r"fitness.promotion.shares: unknown key .*'share'"),
    ({"fitness.search_documents": "some"}, r"search_documents: .*integer.*'auto' or 'all', got"),
    ({"fitness.estimator": "greg"}, r"fitness.estimator: 'key: value' lines expected, got 'greg'"),
    ({"keep": "maths <= 3"}, r"keep: 'maths <= 3': unknown objective 'maths'; did you mean 'math'"),
    ({"keep": ["math >= 0.9 * bse"]}, r"unknown model 'bse'; did you mean 'base'"),
    ({"keep": "math"}, r"keep: 'OBJECTIVE <= BOUND' or .*got 'math'"),
    ({"keep": "math >= base / 2"}, r"keep: 'OBJECTIVE <= BOUND' or .* expected"),
    # names that become files, and models that are the same
    *(({"name": n}, r"name: letters, digits") for n in ("", " ", "../x", "/x", ".x", "a/b", "a\n")),
    *(
        ({"models.experts": {n: "x"}}, r"models.experts: '.*' cannot be a short name")
        for n in ("", "base", "trial_3", "a.b", "../x", "a b", "-x")
    ),
    ({"models.experts.math": "zoo/italian"}, r"'italian' is the same model as 'math'"),
    ({"models.experts.math": "./zoo//base/"}, r"'math' is the same model as 'base'"),
    ({"objectives.0.name": "italian"}, r"objectives: names must be distinct and not empty"),
    ({"objectives.0.name": ""}, r"objectives: names must be distinct and not empty"),
    # optimizer and objectives
    ({"optimizer": {"kind": "ga"}}, r"optimizer 'ga' handles one, got 2; take one of .*nsga2, "),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: (?s:.*){message}"):
        Experiment.from_dict(changed(changes), where="here")


@pytest.mark.parametrize("name", ["trial", "trial_3b", "base2", "it-IT", "β"])
def test_short_names_that_are_fine(name: str) -> None:
    Experiment.from_dict(changed({"models.experts": {name: "x"}}))


def test_spaces_come_from_presets_files_or_the_experiment(tmp_path: Path) -> None:
    def block(space: dict[str, Any]) -> dict[str, Any]:
        return Experiment.from_dict(changed({"search_space": space})).search_space.block()

    preset = block({"preset": "ties_aim", "genes": {"omega": {"low": 0.2}}, "fixed": {"lambda": 1}})
    assert preset["genes"]["omega"] == {"low": 0.2}
    assert "lambda" not in preset["genes"]
    assert preset["fixed"] == {"lambda": 1, "normalize": True}
    file = tmp_path / "space.yaml"
    file.write_text("method: slerp\ngenes: {t: {}, omega: {}}\n")
    assert block({"path": str(file)}) == {
        "method": "slerp",
        "genes": {"t": {}, "omega": {}},
        "fixed": {},
    }
    for text, message in (
        ("method: slerp\ngenes: [t]", r"space.yaml: genes: 'name: ...' lines expected"),
        ("method: slerp\nfixed: 5", r"space.yaml: fixed: 'name: ...' lines expected"),
        ("method: 5", r"search_space.method: a name or a list"),
        ("methods: slerp", r"search_space.method: a name or a list of names expected, got None"),
        ("method: slerp\nmethod: ties", r"duplicate key 'method'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            block({"path": str(file)})
    with pytest.raises(ConfigError, match=r"no\.yaml: no such file"):
        block({"path": str(tmp_path / "no.yaml")})


def test_a_space_without_aim_needs_no_calibration() -> None:
    space = {"method": "task_arithmetic", "genes": {"weight": {}}}
    Experiment.from_dict(changed({"search_space": space, "calibration": None}))


def test_overrides_reach_every_value() -> None:
    experiment = Experiment.from_yaml(
        QUICKSTART,
        [
            "seed=7",
            "budget.candidates=3",
            "budget.minutes=1e-1",
            "models.experts.french=zoo/french",
            "objectives.1.tasks=[a, b]",
            "fitness.estimator={kind: sample_mean, documents: 5}",
            "storage=postgresql://host/db?x=y",
        ],
    )
    assert (experiment.seed, experiment.budget.candidates, experiment.budget.minutes) == (7, 3, 0.1)
    assert experiment.models.experts["french"] == "zoo/french"
    assert experiment.objectives[1].tasks == ["a", "b"]
    assert experiment.fitness.estimator == {"kind": "sample_mean", "documents": 5}
    assert experiment.storage == "postgresql://host/db?x=y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", r"--set seed: key.path=value expected"),
        ("=5", r"--set =5: key.path=value expected"),
        ("budget.candidate=5", r"budget.candidate: unknown key 'candidate'; did you mean"),
        ("buget.candidates=5", r"buget: unknown key 'buget'; did you mean 'budget'"),
        ("seed.x=5", r"--set seed.x=5: 'seed' is not a block"),
        ("seed.x.y=5", r"there is no 'x' to go into"),
        ("objectives.7.name=x", r"an index below 2 expected, got '7'"),
        ("objectives.first.name=x", r"an index below 2 expected, got 'first'"),
        ("objectives.²=x", r"an index below 2 expected, got '²'"),
        ("name=a: b", r"--set name=a: b: line 1, column \d+: "),
        ("name=[a", r"--set name=\[a: line"),
        ("seed=*x", r"aliases"),
        ("seed=x", r"seed: input should be a valid integer"),
        ("budget.candidates=0", r"budget.candidates: .*greater than or equal to 1"),
        ("calibration.data=", r"calibration.data: input should be a valid string, got None"),
    ],
)
def test_overrides_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(USER_ERRORS, match=message):
        Experiment.from_yaml(QUICKSTART, [text])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(USER_ERRORS, match=r"nowhere\.yaml: no such file"):
        Experiment.from_yaml("nowhere.yaml")
