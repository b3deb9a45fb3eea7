"""What a person sees: tables on standard output, progress and notes on standard error."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flows.progress import listener

# No markup: a file may be named "[bold]". What is bold is said by style.
out = Console(highlight=False, markup=False)
notes = Console(stderr=True, highlight=False, markup=False)


def print_json(content: Any) -> None:
    """Print a summary as JSON on standard output."""
    if is_dataclass(content) and not isinstance(content, type):
        content = asdict(content)
    json.dump(content, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `right` hold numbers."""
    made = Table(header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def show(title: str, rows: Table) -> None:
    """Print a table under its title."""
    out.print(f"\n{title}", style="bold", soft_wrap=True)
    out.print(rows)


def tell_refused(refused: dict[str, str]) -> None:
    """Note the files that were left out, and why each was."""
    for name, reason in refused.items():
        notes.print(f"  left out: {name}: {reason}", style="red", soft_wrap=True)


def percent(share: float | None) -> str:
    """Return 0.934 as 93.4 %, and nothing as a dash."""
    return "-" if share is None else f"{100 * share:.1f} %"


class _Bars:
    """One line per stage, with a bar where the number of files is known."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started, self._failed = time.monotonic(), 0
        self._present: TaskID | None = None
        self._unit = "images"

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        self._finish()
        self._unit = unit
        self._started, self._failed = time.monotonic(), 0
        self._present = self._progress.add_task(name, total=total or None, detail="")

    def advance(self, done: int, failed: int) -> None:
        if self._present is None:
            return
        self._failed += failed
        self._progress.advance(self._present, done)
        completed = self._progress.tasks[self._progress.task_ids.index(self._present)].completed
        rate = completed / max(time.monotonic() - self._started, 1e-9)
        failed_note = f", {self._failed} unreadable" if self._failed else ""
        self._progress.update(self._present, detail=f"{rate:.0f} {self._unit}/s{failed_note}")

    def _finish(self) -> None:
        if self._present is not None:
            row = self._progress.tasks[self._progress.task_ids.index(self._present)]
            total = row.total or 1
            self._progress.update(self._present, total=total, completed=total)


@contextmanager
def progress_shown(first: str) -> Iterator[None]:
    """Show the progress of the stages that run inside the block, beginning with `first`."""
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as progress:
        bars = _Bars(progress)
        bars.stage(first)
        token = listener.set(bars)
        try:
            yield
            bars._finish()
        finally:
            listener.reset(token)
