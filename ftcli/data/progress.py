"""Display of a preparation: a bar with rows a second on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ftcli.core.console import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ftcli.data.preparation import PreparationTask
    from ftcli.data.statistics import RowCounts

SHORT = 2.0  # seconds; what is prepared in less is not shown
INTERVAL = 10.0  # seconds between lines where there is no terminal


class PreparationDisplay:
    """Shows how far each source of each split is; pass it to `Data.prepare` inside a `with` block.

    It writes to stderr, on the first rank only, and nothing under `--quiet`.
    """

    def __init__(self) -> None:
        self.shown = not os.environ.get("FTCLI_QUIET") and os.environ.get("RANK", "0") == "0"
        self.task: PreparationTask | None = None
        self.counts: RowCounts | None = None
        self.bar: Bar | None = None

    def __enter__(self) -> PreparationDisplay:
        self.began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._close(done=error is None)

    def __call__(self, task: PreparationTask, counts: RowCounts) -> None:
        """Show the counts of a chunk that was written."""
        if not self.shown:
            return
        now = time.monotonic()
        if self.task is None or self.task.name != task.name:
            self._close(done=True)
            self.began = now if self.task is not None else self.began
            self.task, self.first, self.total = task, counts.entries, task.rows.count_rows()
            self.since = self.told = now
        self.counts, self.now = counts, now
        if now - self.began >= SHORT:
            self._show(counts)

    def _speed(self) -> float:
        """Return rows a second, from the end of the first chunk on: a resumed preparation begins with many."""
        assert self.counts is not None
        return (self.counts.entries - self.first) / max(self.now - self.since, 1e-9)

    def _show(self, counts: RowCounts) -> None:
        assert self.task is not None
        out = console(stderr=True)
        text = f"{counts.entries:,} rows, {self._speed():,.0f} rows/s"
        if out.is_terminal:
            if self.bar is None:
                self.bar = _make_bar()
                self.bar_line = self.bar.add_task(self.task.name, total=self.total, text="")
            self.bar.update(self.bar_line, completed=counts.entries, text=text)
        elif self.now - self.told >= INTERVAL:
            self.told = self.now
            of = f" of about {self.total:,}" if self.total else ""
            out.print(f"{self.task.name}: {text}{of}", style="dim")

    def _close(self, done: bool) -> None:
        """Remove the bar; say what was prepared where that took a while."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if self.task is None or self.counts is None or not done:
            return
        seconds = self.now - self.began
        if seconds >= SHORT:
            rows = self.counts.entries
            text = f"{self.task.name}: {rows:,} rows read in {seconds:,.1f} s"
            console(stderr=True).print(f"{text} ({rows / seconds:,.0f} rows/s)", style="dim")
        self.counts = None


def _make_bar() -> Bar:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar
