"""Progress display of a run: one live bar on a terminal, one plain line a log elsewhere.

Nothing is shown by ranks other than 0 nor under `--quiet`. Colour follows NO_COLOR.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback, State

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from ftcli.core.batch_layout import BatchLayout
    from ftcli.core.run import Run
    from ftcli.core.run_dir import RunDir

SAMPLE_LENGTH = 240  # number of characters of the first row that are shown
#: Format of each figure that is shown, in this order.
FORMATS = {
    "loss": "loss {:.4f}", "lr": "lr {:.2e}", "tok_s": "{:,.0f} tok/s", "mem_gb": "{:.2f} GB",
}  # fmt: skip


class Progress(Callback):
    """Shows what a line of metrics.jsonl holds (loss, learning rate, tokens/s, peak memory), with ETA and
    checkpoint age."""

    def __init__(self, live: bool | None = None) -> None:
        """`live`: draw a bar; None asks the terminal."""
        self.first_rank = os.environ.get("RANK", "0") == "0"
        self.shown = self.first_rank and not os.environ.get("FTCLI_QUIET")
        self.dir: RunDir | None = None
        self.live = (
            (sys.stdout.isatty() and os.environ.get("TERM") != "dumb") if live is None else live
        )
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.began: tuple[float, int] | None = None
        self.checkpoints: Path | None = None

    def setup(self, run: Run) -> None:
        """Print what is about to be trained, and store where checkpoints will appear."""
        self.dir = run.dir
        if run.dir is None:
            return
        self.checkpoints = run.dir.checkpoints
        if self.first_rank:
            self._print_line(describe_run(run))

    def before_step(self, state: State) -> None:
        """Start the clock of the ETA at the first step of this process, which is not 0 after a resume."""
        if self.began is None:
            self.began = (time.monotonic(), state.step)

    def on_log(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of one log line."""
        total = state.max_steps
        text, left = (
            " · ".join(self._format_figures(metrics)),
            self._format_remaining_time(metrics["step"], total),
        )
        self._print_line(
            f"step {metrics['step']}{f'/{total}' if total else ''}  {text}{left}", bar=True
        )
        if self.live and self.shown:
            self._update_bar(metrics["step"], total, text, left)

    def on_evaluate(self, state: State, metrics: Mapping[str, Any]) -> None:
        """Show scores above the bar, where they stay."""
        scores = "  ".join(
            f"{name.removeprefix('eval.')} {value:.4g}"
            for name, value in metrics.items()
            if name.startswith("eval.") and isinstance(value, int | float)
        )
        if scores:
            self._print_line(f"eval at step {metrics.get('step', state.step)}  {scores}")

    def on_train_end(self, state: State) -> None:
        """Remove the bar from the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print_line(self, text: str, bar: bool = False) -> None:
        """Write a line to train.log and print it, unless `bar` and the live bar shows it already."""
        if self.first_rank and self.dir is not None:
            self.dir.append_log(text)
        if not self.shown or (bar and self.live):
            return
        if self.bar is not None:
            self.bar.console.print(text)
        else:
            print(text, flush=True)

    def _format_figures(self, metrics: Mapping[str, Any]) -> list[str]:
        """Return the formatted metrics that were measured, and the age of the last checkpoint."""
        shown = [
            form.format(metrics[key])
            for key, form in FORMATS.items()
            if metrics.get(key) is not None
        ]
        age = self._measure_checkpoint_age()
        return shown + ([f"saved {format_duration(age)} ago"] if age is not None else [])

    def _measure_checkpoint_age(self) -> float | None:
        """Return the seconds since the last complete checkpoint; None before the first."""
        if self.checkpoints is None:
            return None
        times = [done.stat().st_mtime for done in self.checkpoints.glob("step-*/DONE")]
        return max(0.0, time.time() - max(times)) if times else None

    def _format_remaining_time(self, step: int, total: int) -> str:
        if not total or self.began is None or step <= self.began[1]:
            return ""
        pace = (time.monotonic() - self.began[0]) / (step - self.began[1])
        return f" · {format_duration(pace * (total - step))} left"

    def _update_bar(self, step: int, total: int, text: str, left: str) -> None:
        if self.bar is None:
            self.bar, self.task = _start_bar(total)
        assert self.task is not None
        self.bar.update(self.task, completed=step, total=total, text=text + left)


def describe_run(run: Run) -> str:
    """Return the lines that describe model, trained parameters, data and the first row as the model sees it."""
    from ftcli.methods.left_out import list_left_out, summarise
    from ftcli.models.anatomy import count_parameters

    tokenized = run.data.prepare("train", run.tokenizer)
    trained, total = count_parameters(run.model, trainable_only=True), count_parameters(run.model)
    first = tokenized.sample(run.tokenizer)
    sample = first if len(first) <= SAMPLE_LENGTH else f"{first[:SAMPLE_LENGTH]} ..."
    frozen = list_left_out(run.model, getattr(run.method, "left_out", None))
    gguf = getattr(run.model_source, "gguf", None)
    stored = f"gguf    {gguf.describe()}\n" if gguf else ""
    targets = f"targets left out: {summarise(frozen)}\n" if frozen else ""
    assert run.dir is not None
    return (
        f"run     {run.dir.path}\n"
        f"model   {run.model_source.path}: {total:,} parameters, {trained:,} trained "
        f"({trained / total:.2%})\n"
        f"{stored}"
        f"{targets}"
        f"data    {getattr(run.data, 'title', run.data.path)}: {tokenized.summary()}\n"
        f"{_describe_sources(run.data, tokenized)}"
        f"{_describe_packing(run.batch_layout)}"
        f"sample  {sample!r}"
    )


def _describe_sources(data: Any, tokenized: Any) -> str:
    """Return a line for each source with its share of an epoch; empty where there is one source."""
    if len(getattr(tokenized, "sizes", ())) < 2:
        return ""
    shares = tokenized.list_shares(2 if data.pairs else 1)
    return "".join(f"source  {share.describe()}\n" for share in shares)


def _describe_packing(proof: BatchLayout | None) -> str:
    """Return the line about packing and why it is not the first choice; empty where none was measured."""
    if proof is None:
        return ""
    ways = {
        "one_row_per_forward": ", one row per forward pass",
        "reset_state": ", recurrent layers restart at each document",
    }
    text = proof.packing + ways.get(proof.document_isolation, "")
    if proof.attention == "library":
        text += ", attention of transformers"
    return f"packing {text}{f': {proof.reason}' if proof.reason else ''}\n"


def format_duration(seconds: float) -> str:
    """Format a duration such as 45s, 3m05s or 2h10m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _start_bar(total: int | None) -> tuple[Bar, TaskID]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from ftcli.core.console import console

    bar = Bar(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}"),
        console=console(),
    )
    bar.start()
    return bar, bar.add_task("train", total=total, text="")
