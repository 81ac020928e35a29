"""The command line; every command imports what it needs only when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from evoaim import __version__
from evoaim.errors import USER_ERRORS, CandidateError

app = typer.Typer(
    help="Search for the best way to merge language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo = typer.Typer(help="The demo zoo: small real models that run anywhere.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="Experiment file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory of a search.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer reads it at run time)
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one value of the file."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evoaim {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """What holds for all commands."""


@app.command()
def search(
    experiment: ExperimentFile,
    run_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the run is kept (default: runs/NAME)."),
    ] = None,
    overrides: SetOption = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that score candidates; one a CUDA device.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Score by --workers Ray actors: auto (a running cluster), local, or an address.",
        ),
    ] = None,
) -> None:
    """Run a search; the same command resumes it."""
    from evoaim.commands import run_search_command

    run_search_command(experiment, run_dir, overrides or [], workers, ray)


@app.command()
def merge(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe or mergekit config.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of the stored weights (default: the recipe's, else the base's)."),
    ] = None,
) -> None:
    """Merge one recipe into a Hugging Face checkpoint folder."""
    from evoaim.commands import merge_command

    merge_command(recipe, out, device, dtype)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model: folder or hub id.")],
    data: Annotated[Path, typer.Option(help="JSON lines with a field `text`, or a .txt file.")],
    out: Annotated[Path, typer.Option(help="File to write, such as importance.safetensors.")],
    documents: Annotated[int, typer.Option(min=1, help="Texts to use.")] = 256,
    block_size: Annotated[int, typer.Option(min=2, help="Tokens a block.")] = 512,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    statistics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="KIND,...", help="Instead: what a method needs, such as fisher."),
    ] = None,
) -> None:
    """Measure a base model's AIM importance, or a model's statistics for methods that need them."""
    from evoaim.commands import calibrate_command, measure_command

    size = (documents, block_size)
    if statistics is None:
        calibrate_command(model, data, out, size, device)
    else:
        measure_command(model, data, out, size, device, statistics)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RECIPE", help="Folder, id or recipe.")],
    experiment: Annotated[Path, typer.Option(help="Experiment whose objectives count.")],
    report_set: Annotated[
        bool, typer.Option("--report-set", help="On the report documents, not the search panel.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Score a model or a recipe on an experiment's objectives."""
    from evoaim.commands import evaluate_command

    evaluate_command(model, experiment, "report" if report_set else "search", overrides or [])


@app.command()
def front(
    run_dir: RunFolder,
    pick: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="knee|NAME=WEIGHT,...", help="Pick one compromise."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the front, or pick a compromise from it."""
    from evoaim.commands import front_command

    front_command(run_dir, pick, "json" if as_json else "table")


@app.command()
def export(
    run_dir: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    trial: Annotated[int, typer.Option(min=0, help="Number of the trial.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Write one trial as a Hugging Face checkpoint with model card and recipe."""
    from evoaim.commands import export_command

    export_command(run_dir, trial, out, device)


@app.command()
def report(
    run_dir: RunFolder,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File to write (default: report.html of the run)."),
    ] = None,
) -> None:
    """Write the run's report, one self-contained HTML file."""
    from evoaim.report import write_report
    from evoaim.run_dir import existing

    typer.echo(write_report(existing(run_dir), out))


@app.command()
def dashboard(
    run_dir: RunFolder,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8080,
) -> None:
    """Open optuna-dashboard on the run's study."""
    from evoaim.commands import dashboard_command

    dashboard_command(run_dir, port)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="{methods,spaces,optimizers,estimators,panels}")],
) -> None:
    """List what can be chosen, with parameters, ranges and papers."""
    from evoaim.listing import listing

    for line in listing(what):
        typer.echo(line)


@app.command()
def validate(experiment: ExperimentFile, overrides: SetOption = None) -> None:
    """Check an experiment without running it: models, tasks, genes, memory, cost."""
    from evoaim.commands import validate_command

    validate_command(experiment, overrides or [])


@zoo.command("build")
def zoo_build(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to.")] = Path("zoo"),
) -> None:
    """Train the demo zoo on this machine (about two minutes); skipped if it is there and intact."""
    from evoaim.commands import zoo_command

    zoo_command(folder)


def main() -> None:
    """Entry point: 0 done, 2 wrong input, 130 interrupted, 1 anything else."""
    try:
        app()
    except (*USER_ERRORS, CandidateError) as error:
        typer.echo(f"evoaim: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("evoaim: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
