"""What the commands do, between the command line and the library; the only place that prints."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from evoaim.checkpoint import Checkpoint
from evoaim.config import Experiment
from evoaim.errors import ConfigError
from evoaim.export import Exported, check_target, export_model
from evoaim.front import knee, weighted
from evoaim.front_table import front_table
from evoaim.importance import Importance
from evoaim.live import DTYPES, load_live, load_tokenizer, pick_device
from evoaim.lora import LoraExpert
from evoaim.merger import Merger
from evoaim.plan import notes
from evoaim.results import Entry, Results, front_of, losses
from evoaim.run_dir import RunDir, existing
from fitness.types import Split
from search_spaces.recipe import Recipe, Source

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def run_search_command(
    path: Path, run_dir: Path | None, overrides: Sequence[str], workers: int, ray: str | None
) -> None:
    """`evoaim search`."""
    from evoaim.progress import TerminalProgress
    from evoaim.report import write_report
    from evoaim.report.findings import find
    from evoaim.report.verdict import verdict
    from evoaim.search import run_search

    experiment = Experiment.from_yaml(path, overrides)
    folder = run_dir or Path("runs") / experiment.name
    again = shlex.join(["evoaim", *sys.argv[1:]])
    try:
        with TerminalProgress(ERR) as progress:
            results = run_search(experiment, folder, progress, workers, ray)
    except KeyboardInterrupt:
        _say(f"interrupted; everything finished is kept. Continue with: {again}", ERR)
        raise
    report = write_report(RunDir(folder))
    _print_front(results, results.front, f"{len(results.front)} on the front")
    OUT.print(f"\n{verdict(find(results))}", markup=False)
    _say(
        f"\nreport     {report}\ndashboard  evoaim dashboard {folder}\n"
        f"export     evoaim export {folder} --trial N OUT"
    )


def merge_command(path: Path, out: Path, device: str, dtype: str | None) -> None:
    """`evoaim merge`."""
    recipe = Recipe.from_yaml(path)
    check_target(out)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: one of {', '.join(DTYPES)} expected")
    merger = merger_for(recipe, device)
    merger.planner(recipe)  # refuses what is wrong before anything is said of the rest
    for note in notes(recipe):
        _say(f"note: {note}", ERR)
    merger.importance_of(recipe)
    stored = dtype or recipe.out_dtype or recipe.dtype or merger.base.dtype
    stored = stored if stored in DTYPES else "float32"
    export_model(merger, Exported(recipe, {}), out, stored)
    _say(str(out))


def merger_for(recipe: Recipe, device: str) -> Merger:
    """A merger with the models that a recipe names.

    Raises:
        ConfigError: a model is missing or does not fit.
    """
    aim_base = recipe.aim.base_model if recipe.aim else None
    base = aim_base or recipe.model_names[0]
    merger = Merger.open(base, {m: m for m in recipe.model_names if m != base}, device, like=recipe)
    for expert in merger.experts.values():
        for note in expert.notes if isinstance(expert, LoraExpert) else ():
            _say(f"note: model '{expert.name}': {note}", ERR)
    return merger.with_statistics_of(recipe)


def calibrate_command(
    model: str, data: Path, out: Path, size: tuple[int, int], device: str
) -> None:
    """`evoaim calibrate`; size is (documents, block size)."""
    from evoaim.calibration import importance_of

    if out.exists():
        Importance.load(out)  # refuses to overwrite anything that is no importance file
    checkpoint, live, blocks = _calibration(model, data, size, device)
    importance = importance_of(checkpoint, live, blocks)
    try:
        importance.save(out)
    except OSError as error:
        raise ConfigError(f"'{out}': cannot be written ({error})") from None
    _say(f"{out}: {len(importance.channels)} weights, {importance.origin['tokens']} tokens")


def measure_command(
    model: str, data: Path, out: Path, size: tuple[int, int], device: str, kinds: str
) -> None:
    """`evoaim calibrate --statistics`; size is (documents, block size)."""
    from evoaim.blueprint import Blueprint
    from evoaim.calibration import check_context, origin_of
    from evoaim.data_statistics import DataStatistics, read_kinds, write
    from evoaim.measurement import measure

    wanted = read_kinds(kinds)
    if out.exists():
        DataStatistics.open(out)  # refuses to overwrite anything that is no such file
    checkpoint, live, blocks = _calibration(model, data, size, device)
    check_context(live.config, blocks)
    origin = origin_of(checkpoint, blocks)
    write(out, measure(live, Blueprint.of(checkpoint), blocks, wanted), origin)
    _say(f"{out}: {', '.join(wanted)}, {origin['tokens']} tokens")


def _calibration(
    model: str, data: Path, size: tuple[int, int], device: str
) -> tuple[Checkpoint, nn.Module, list[Tensor]]:
    """A checkpoint, the live model and token blocks; size is (documents, block size)."""
    from evoaim.calibration import read_texts, token_blocks

    texts = read_texts(data, size[0])
    checkpoint = Checkpoint.open(model)
    blocks = token_blocks(load_tokenizer(checkpoint), texts, size[1])
    dtype = DTYPES.get(checkpoint.dtype, DTYPES["float32"])
    return checkpoint, load_live(checkpoint, dtype, pick_device(device)), blocks


def evaluate_command(model: str, path: Path, split: Split, overrides: Sequence[str]) -> None:
    """`evoaim evaluate`."""
    from evoaim.evaluator import Evaluator

    experiment = Experiment.from_yaml(path, overrides)
    if model.endswith((".yaml", ".yml")):
        recipe = Recipe.from_yaml(model)
        evaluator = Evaluator.of(experiment)
        if recipe.aim is not None and recipe.aim.importance is None:
            evaluator = evaluator.calibrated()
        evaluator = evaluator.informed(like=recipe)
    else:
        known = {"base": experiment.models.base, **experiment.models.experts}
        paths = {os.path.normpath(path): path for path in known.values()}
        name = known.get(model) or paths.get(os.path.normpath(model)) or model
        if name not in known.values():
            data = experiment.to_dict()
            data["models"]["experts"] = {"evaluated": name}
            data["keep"] = []  # may name the experts that are not loaded now
            experiment = Experiment.from_dict(data)
        evaluator = Evaluator.of(experiment)
        recipe = Recipe("linear", (Source(name, {"weight": 1.0}),))
    panels = [evaluator.documents[split]]
    if split == "search" and not evaluator.plan().needs_references:
        panels = [evaluator.scheme({}, 0).panel]
    scores = evaluator.score(recipe, split, panels)
    estimates = evaluator.report(scores)
    table = Table(
        "objective", "value", "stderr", "documents", title=f"{escape(model)} ({split} documents)"
    )
    for objective in evaluator.objectives:
        estimate = estimates[objective.name]
        n = sum(len(scores[m.key].documents) for m in objective.metrics)
        table.add_row(
            escape(objective.name), f"{estimate.value:.4f}", f"{estimate.stderr:.4f}", str(n)
        )
    OUT.print(table)


def front_command(run_dir: Path, pick: str | None, style: str) -> None:
    """`evoaim front`; style is "table" or "json"."""
    results = Results.read(existing(run_dir))
    entries = list(results.front) or _unscored(results)
    title = f"{len(entries)} on the front"
    if pick is not None:
        title = f"{pick} of {title}"
        if not entries:
            raise ConfigError(
                f"'{run_dir}': the front is empty; no candidate has finished, or none is feasible"
            )
        entries = [entries[_picked(results, entries, pick)]]
    if style == "json":
        sys.stdout.write(json.dumps([e.to_dict() for e in entries], indent=1) + "\n")
        return
    if entries or results.parents:
        _print_front(results, entries, title)
    if not entries:
        done = any(t.state == "done" for t in results.trials)
        _say(f"no candidate {'keeps the constraints' if done else 'has finished'} yet", ERR)
    elif not results.front:
        _say("the search has not finished: no report scores yet", ERR)


def dashboard_command(run_dir: Path, port: int) -> None:
    """`evoaim dashboard`."""
    import webbrowser

    from evoaim.dashboard import serve

    def announce(url: str) -> None:
        _say(f"{url}  (this machine only; Ctrl-C ends it)")
        webbrowser.open(url)

    serve(existing(run_dir), port, announce)


def export_command(run_dir: Path, number: int, out: Path, device: str) -> None:
    """`evoaim export`."""
    run = existing(run_dir)
    results = Results.read(run)
    results.trial(number)
    check_target(out)
    recipe = Recipe.from_yaml(run.recipe(number))
    if recipe.aim is not None:
        recipe = replace(recipe, aim=replace(recipe.aim, importance=str(run.importance)))
    merger = merger_for(recipe, device)
    scores: Mapping[str, Any] = {}
    for entry in results.front:
        if entry.trial == number and entry.report is not None:
            scores = entry.to_dict()["report"]
    exported = Exported(recipe, scores, str(results.experiment["name"]))
    export_model(merger, exported, out, results.experiment["models"]["dtype"])
    _say(str(out))


def validate_command(path: Path, overrides: Sequence[str]) -> None:
    """`evoaim validate`."""
    from evoaim.validation import describe

    for line in describe(Experiment.from_yaml(path, overrides)):
        _say(line)


def zoo_command(folder: Path) -> None:
    """`evoaim zoo build`."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from evoaim.zoo import build_zoo, is_intact

    if is_intact(folder):
        _say(f"{folder}: is there and intact")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=ERR) as bar:
        task = bar.add_task("building the demo zoo", total=1.0)
        build_zoo(folder, lambda text, done: bar.update(task, description=text, completed=done))
    _say(f"{folder}: built")


def _unscored(results: Results) -> list[Entry]:
    """The front by search estimates, for a run that has not finished."""
    return [
        Entry(f"trial {t.number}", t.number, t.genome, {}, t.estimates, None)
        for t in front_of(results.objectives, results.trials)
    ]


def _picked(results: Results, entries: Sequence[Entry], pick: str) -> int:
    """Index of the compromise by search documents: the report documents choose nothing."""
    points = losses(results.objectives, [e.known for e in entries])
    if pick == "knee":
        return knee(points)
    try:
        pairs = [part.split("=") for part in pick.split(",")]
        weights = {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise ConfigError(f"--pick {pick}: knee, or NAME=WEIGHT,... expected") from None
    return weighted(points, [o.name for o in results.objectives], weights)


def _print_front(results: Results, entries: Sequence[Entry], what: str) -> None:
    OUT.print(front_table(OUT, results, entries, f"{results.experiment['name']}: {what}"))


def _say(text: str, console: Console = OUT) -> None:
    """Print a text as it is: no markup, and no line breaks where the terminal ends."""
    console.print(text, markup=False, soft_wrap=True)
