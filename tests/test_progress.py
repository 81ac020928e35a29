"""A search's progress is one short line, or a table; a resumed search is announced as one."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evoaim.config import Experiment
from evoaim.progress import LINE_WIDTH, TerminalProgress
from evoaim.search import run_search
from evoaim.snapshot import Silent, Snapshot
from fitness.types import Estimate

BEST = {n: Estimate(0.7375, 0.1, None, 20) for n in ("math", "italian", "japanese", "code")}
FIRST = Snapshot(1, 128, 0, 0, 1, 0.15, 0.15, {}, 1.0, 40)
LATER = Snapshot(67, 128, 2, 30, 15, 0.3, 0.15, BEST, 12.0, 12340)


def said(*snapshots: Snapshot, terminal: bool = False) -> str:
    """What is written at these snapshots."""
    out = io.StringIO()
    with TerminalProgress(Console(file=out, width=80, force_terminal=terminal)) as progress:
        for snapshot in snapshots:
            progress.candidate(snapshot)
    return out.getvalue()


@pytest.mark.parametrize("n", range(5))
def test_a_line_stays_a_line_and_says_the_most_important_first(n: int) -> None:
    names = list(BEST)[:n]
    lines = said(FIRST, replace(LATER, best={k: BEST[k] for k in names})).splitlines()
    assert all(len(line) <= LINE_WIDTH for line in lines)
    assert len(lines) == 2
    assert lines[-1].startswith("67/128 (2 failed, 30 raced out) | front 15 | hypervolume 2.00x")
    assert (f"best {', '.join(f'{k} 0.738' for k in names)}" in lines[-1]) == (1 <= n <= 2)


def test_the_luckiest_on_a_few_documents_is_not_called_the_best() -> None:
    lucky = {n: replace(e) for n, e in BEST.items()}
    assert "best" not in said(FIRST, replace(LATER, best=lucky))


def test_a_resumed_search_is_announced_and_a_new_one_is_not() -> None:
    assert "resuming: 67 of 128 candidates recorded" in said(LATER)
    assert "resuming: 67 candidates recorded" in said(replace(LATER, budget=None))
    assert "resuming" not in said(FIRST, LATER)


def test_a_table_says_everything() -> None:
    table = said(FIRST, LATER, terminal=True)
    for fact in ("30 raced out", "0.3 (2.00x parents)", "0.7375 ± 0.1", "12,340", "best code"):
        assert fact in table
    assert "0.123" not in table  # what candidates are compared by is no accuracy


def test_a_stage_is_printed_as_it_is() -> None:
    out = io.StringIO()
    TerminalProgress(Console(file=out, width=80)).stage("trial 3: [red]shape[/] [1, 2]")
    assert out.getvalue() == "· trial 3: [red]shape[/] [1, 2]\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_models_are_counted_now_and_then_or_in_place(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    out = io.StringIO()
    with TerminalProgress(Console(file=out, width=80, force_terminal=terminal)) as progress:
        for done in range(8):
            progress.scored(done, 16)
            now += 4
    assert "7 of 16 models" in out.getvalue()
    if not terminal:
        assert out.getvalue() == "  1 of 16 models\n  4 of 16 models\n  7 of 16 models\n"


def test_a_search_counts_what_it_scores_after_its_budget(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    told: list[str] = []

    class Told(Silent):
        def stage(self, text: str) -> None:
            told.append(text)

        def scored(self, done: int, total: int) -> None:
            told.append(f"{done} of {total}")

    fitness = {"estimator": {"kind": "sample_mean", "documents": 10}, "promotion": {"finalists": 2}}
    changes = {"budget": {"candidates": 4}, "fitness": {**tiny["fitness"], **fitness}}
    run_search(Experiment.from_dict({**tiny, **changes}), tmp_path / "run", Told())
    promoting = told.index("scoring the best candidates on more search documents")
    reporting = told.index("re-scoring the front on the report documents")
    assert told[promoting + 1 : promoting + 4] == ["0 of 2", "1 of 2", "2 of 2"]
    n = int(told[-1].partition(" of ")[2])
    assert told[reporting + 1 :] == [f"{i} of {n}" for i in range(n + 1)]
