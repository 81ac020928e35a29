"""A table on the terminal that is a Markdown table in a file."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Print a table; its Markdown."""
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows]]
    return "\n".join([f"{title}\n", *lines, ""])
