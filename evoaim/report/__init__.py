"""The report of a run: one self-contained HTML file, read-only, finished or not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from evoaim.errors import ConfigError
from evoaim.gene_importance import FEWEST, gene_importances
from evoaim.report import findings, optimism, page, provenance, table, text, verdict
from evoaim.report.figures import best_figure, volume_figure
from evoaim.report.findings import Findings, drawn
from evoaim.report.front_figure import background, front_figure, numbered, outside
from evoaim.report.omega_figure import omega_figure, omega_words
from evoaim.results import Entry, Results
from evoaim.run_dir import RunDir, write_text
from search_spaces import strict_yaml

__all__ = ["write_report"]


def write_report(run: RunDir, out: Path | None = None) -> Path:
    """Write what a run has found as HTML; the file's path (default: report.html of the run).

    Raises:
        ConfigError: no study yet, a damaged file, or `out` cannot be written.
    """
    path = out or run.report
    html = page.render(_content(run))
    try:
        write_text(path, html)
    except OSError as error:
        raise ConfigError(f"'{path}': the report cannot be written ({error})") from None
    return path


def _content(run: RunDir) -> dict[str, Any]:
    """Everything that the page shows, by the names that its template uses."""
    results = Results.read(run)
    found = findings.find(results)
    manifest = provenance.manifest(run)
    seeds = manifest.get("seeds", 0)
    failed = {t.number: t.reason for t in results.trials if t.state == "failed"}
    one = len(found.objectives) == 1
    listed = table.listed(found, found.front)
    return {
        "run": run.path,
        "name": results.experiment["name"],
        "found": found,
        "pick": findings.chosen(found),
        "verdict": verdict.verdict(found),
        "remarks": verdict.remarks(found, provenance.tally(run, len(failed))),
        "volumes": findings.volumes(found),
        "corner": _corner(found),
        "shifts": _shifts(found),
        "optimism": optimism.words(found),
        "figures": {
            "front": best_figure(found, seeds) if one else front_figure(found),
            "volume": None if one else volume_figure(found, seeds),
            "omega": omega_figure(found),
        },
        "aim": omega_words(found),
        "outside": 0 if one else outside(found),
        "numbered": not one and numbered(found),
        "drawn": len(drawn(found.trials, 1) if one else background(found)),
        "others": len(found.trials if one else found.others),
        "columns": table.columns(found),
        "front": table.rows(found, [_with_recipe(run, e) for e in listed]),
        "parents": table.rows(found, table.listed(found, found.parents)),
        "importances": gene_importances(found.objectives, results.trials),
        "few": FEWEST,
        "failures": table.failures(failed),
        "running": sum(t.state == "running" for t in results.trials),
        "seconds": sum(t.seconds for t in results.trials),
        "experiment": provenance.experiment_yaml(results.experiment),
        "documents": provenance.documents(run),
        "manifest": provenance.flat(manifest),
    }


def _with_recipe(run: RunDir, entry: Entry) -> Entry:
    """The entry with its recipe from the run directory, if it has none yet."""
    if entry.recipe or entry.trial is None or not run.recipe(entry.trial).is_file():
        return entry
    return replace(entry, recipe=strict_yaml.read(run.recipe(entry.trial)))


def _corner(found: Findings) -> list[tuple[str, str]]:
    """The reference point in natural units."""
    corner = findings.reference(found, findings.values)
    if corner is None:
        return []
    # loss is its own inverse
    return [
        (o.name, text.number(o.loss(float(c))))
        for o, c in zip(found.objectives, corner, strict=True)
    ]


def _shifts(found: Findings) -> list[dict[str, str]]:
    """Mean changes of every objective, as text."""
    return [
        {
            "name": s.objective.name,
            "promoted": text.change(s.promoted),
            "report": text.change(s.report),
            "parents": text.change(s.parents),
        }
        for s in optimism.shifts(found)
    ]
