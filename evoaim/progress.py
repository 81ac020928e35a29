"""How a search shows itself: a live table on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from evoaim.search import Snapshot

LINE_EVERY = 10.0  # seconds between plain lines


class TerminalProgress:
    """A `Progress` for people; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._begin: tuple[float, int] | None = None  # first candidate of this session
        self._last_line = 0.0
        self._shown: Snapshot | None = None

    def __enter__(self) -> "TerminalProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._shown is not None:
            self._console.print(self._line(self._shown), highlight=False, markup=False)

    def stage(self, text: str) -> None:
        """Print a line for a new stage."""
        self._console.print(f"[dim]·[/] {text}", highlight=False)

    def candidate(self, snapshot: Snapshot) -> None:
        """Update the table, or print a line now and then."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, snapshot.done)
        self._shown = snapshot
        if self._console.is_terminal:
            self._live.update(self._table(snapshot))
        elif now - self._last_line >= LINE_EVERY:
            self._last_line = now
            self._console.print(self._line(snapshot), highlight=False, markup=False)

    def _rate(self, s: Snapshot) -> float:
        """Candidates a minute of this session; 0 while unknown."""
        begin, first = self._begin or (0.0, 0)
        elapsed = time.monotonic() - begin
        return 60 * (s.done - first) / elapsed if s.done > first and elapsed > 0 else 0.0

    def _left(self, s: Snapshot) -> str:
        rate = self._rate(s)
        if not s.budget or not rate:
            return "?"
        seconds = round(60 * (s.budget - s.done) / rate)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def _facts(self, s: Snapshot) -> dict[str, str]:
        gain = s.hypervolume / s.parents_hypervolume if s.parents_hypervolume > 0 else None
        return {
            "candidates": f"{s.done}/{s.budget or '?'}"
            + (f" ({s.failed} failed)" * bool(s.failed)),
            "front": str(s.front),
            "hypervolume": f"{s.hypervolume:.4g}" + (f" ({gain:.2f}x parents)" if gain else ""),
            **{f"best {n}": f"{e.value:.4g} ± {e.stderr:.2g}" for n, e in s.best.items()},
            "per minute": f"{self._rate(s):.0f}",
            "left": self._left(s),
        }

    def _line(self, s: Snapshot) -> str:
        return " | ".join(f"{k} {v}" for k, v in self._facts(s).items() if k != "left" or v != "?")

    def _table(self, s: Snapshot) -> Table:
        table = Table.grid(padding=(0, 2))
        if s.budget:
            table.add_row("", ProgressBar(total=s.budget, completed=s.done, width=40))
        for name, value in self._facts(s).items():
            table.add_row(f"[bold]{escape(name)}[/]", value)
        return table
