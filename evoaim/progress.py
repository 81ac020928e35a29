"""How a search shows itself: a live table on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evoaim.results import Estimates
from evoaim.snapshot import Snapshot

LINE_EVERY = 10.0  # seconds between plain lines
LINE_WIDTH = 100  # columns that a line may take


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
            self._print(self._shown)

    def stage(self, text: str) -> None:
        """Print a line for a new stage."""
        self._console.print(f"[dim]·[/] {escape(text)}", highlight=False)

    def candidate(self, snapshot: Snapshot) -> None:
        """Update the table, or print a line now and then."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, snapshot.done)
            if snapshot.done > 1:  # a new search tells of its first candidate first
                of = f" of {snapshot.budget}" if snapshot.budget else ""
                self.stage(f"resuming: {snapshot.done}{of} candidates recorded")
        self._shown = snapshot
        if self._console.is_terminal:
            self._live.update(self._table(snapshot))
        elif now - self._last_line >= LINE_EVERY:
            self._last_line = now
            self._print(snapshot)

    def scored(self, done: int, total: int) -> None:
        """Update the count of models, or print a line with it now and then."""
        text = f"  {done} of {total} models"
        now = time.monotonic()
        if self._console.is_terminal:
            self._live.update(Text(text))
        elif done and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            self._console.print(text, highlight=False, markup=False)

    def _rate(self, s: Snapshot) -> float:
        """Candidates a minute of this session; 0 while unknown."""
        begin, first = self._begin or (0.0, 0)
        elapsed = time.monotonic() - begin
        return 60 * (s.done - first) / elapsed if s.done > first and elapsed > 0 else 0.0

    def _left(self, s: Snapshot) -> str:
        """Time to the end of the budget; empty while unknown."""
        rate = self._rate(s)
        if not s.budget or not rate or s.done >= s.budget:
            return ""
        seconds = round(60 * (s.budget - s.done) / rate)
        minutes = f"{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return f"{seconds // 3600}:{minutes}" if seconds >= 3600 else minutes

    def _line(self, s: Snapshot) -> str:
        """The facts that fit into a line, the most important first."""
        left, rate, gain = self._left(s), self._rate(s), _gain(s)
        facts = [
            _counts(s),
            f"front {s.front}",
            f"hypervolume {f'{gain:.2f}x' if gain else f'{s.hypervolume:.4g}'}",
            _best(s),
            f"{left} left" if left else "",
            f"{s.documents:,} documents",
            f"{rate:.0f} per minute" if rate else "",
        ]
        line = facts[0]
        for fact in facts[1:]:
            if fact and len(line) + len(fact) + 3 <= LINE_WIDTH:
                line += f" | {fact}"
        return line

    def _print(self, s: Snapshot) -> None:
        self._console.print(self._line(s), highlight=False, markup=False, soft_wrap=True)

    def _table(self, s: Snapshot) -> Table:
        table = Table.grid(padding=(0, 2))
        if s.budget:
            table.add_row("", ProgressBar(total=s.budget, completed=s.done, width=40))
        gain = _gain(s)
        facts = {
            "candidates": _counts(s),
            "front": str(s.front),
            "hypervolume": f"{s.hypervolume:.4g}" + (f" ({gain:.2f}x parents)" if gain else ""),
            **({f"best {n}": f"{e.value:.4g} ± {e.stderr:.2g}" for n, e in _shown(s).items()}),
            "documents": f"{s.documents:,}",
            "per minute": f"{self._rate(s):.0f}",
            "left": self._left(s) or "?",
        }
        for name, value in facts.items():
            table.add_row(f"[bold]{escape(name)}[/]", value)
        return table


def _gain(s: Snapshot) -> float | None:
    """The hypervolume as a multiple of the parents'."""
    return s.hypervolume / s.parents_hypervolume if s.parents_hypervolume > 0 else None


def _counts(s: Snapshot) -> str:
    lost = {"failed": s.failed, "raced out": s.raced}
    some = ", ".join(f"{n} {what}" for what, n in lost.items() if n)
    return f"{s.done}/{s.budget or '?'}{f' ({some})' if some else ''}"


def _best(s: Snapshot) -> str:
    """The best of every objective, in a line."""
    best = ", ".join(f"{n} {e.value:.3g}" for n, e in _shown(s).items())
    return f"best {best}" if best else ""


def _shown(s: Snapshot) -> Estimates:
    """The best of every objective; none where few documents make the best the luckiest."""
    return {} if any(e.rank_value is not None for e in s.best.values()) else s.best
