"""The front as a table for a terminal: every estimate of every objective, whatever its width."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from evoaim.report.text import WRITTEN
from evoaim.results import Entry, Results

_MARKS = {"maximize": " (up)", "minimize": " (down)"}


def front_table(console: Console, results: Results, entries: Sequence[Entry], title: str) -> Table:
    """Search, promoted (where some entry is) and report estimates of every objective.

    Side by side where the console is wide enough, else one below the other.

    Args:
        console: whose width is to be kept.
        results: of the run; its parents make the last rows.
        entries: the rows before.
        title: plain text.
    """
    everyone = [*entries, *results.parents]
    heads = {o.name: f"{escape(o.name)}{_MARKS[o.goal]}" for o in results.objectives}
    for name in dict.fromkeys(n for e in everyone for n in e.search):
        heads.setdefault(name, f"{escape(name)} (watched)")
    levels = ["search", "promoted", "report"]
    if all(e.promoted is None for e in everyone):
        levels.remove("promoted")

    exact = any(x.stderr == 0 for e in everyone for x in (e.promoted or e.search).values())
    caption = "without ±: of all search documents" if exact else None
    table = Table("", title=escape(title), caption=caption)
    for head in heads.values():
        for i, level in enumerate(levels):
            table.add_column(f"{'' if i else head}\n{level}", justify="right", no_wrap=True)
    for i, e in enumerate(everyone, start=1):
        cells = [_cell(e, n, k) for n in heads for k in levels]
        table.add_row(escape(e.name), *cells, end_section=i == len(entries))
    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        return table

    table = Table("", "", title=escape(title), caption=caption)
    for head in heads.values():
        table.add_column(head, justify="right", overflow="fold")
    for e in everyone:
        for name, level in zip([escape(e.name), *("" for _ in levels[1:])], levels, strict=True):
            if level != "promoted" or e.promoted is not None:
                cells = [_cell(e, n, level) for n in heads]
                table.add_row(name, level, *cells, end_section=level == levels[-1])
    return table


def _cell(entry: Entry, name: str, level: str) -> str:
    known = {"search": entry.search, "promoted": entry.promoted, "report": entry.report}[level]
    if known is None or name not in known:
        return "-"
    return WRITTEN[level](known[name])
