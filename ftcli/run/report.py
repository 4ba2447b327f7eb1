"""report.md: the choices, scores, figures, plots and samples of a run, from its files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.atomic import write_text
from ftcli.core.escaping import escape_controls, escape_markdown

if TYPE_CHECKING:
    from ftcli.core.run_dir import RunDir

CHOICES = ("method", "objective", "optimizer", "scheduler", "trainer")
SAMPLES_SHOWN = 6
CELL = 400  # characters of a sample shown in a table
CAPTIONS = {
    "loss": "Loss of training and of held-out rows",
    "learning_rate": "Learning rate",
    "throughput": "Tokens a second, padding not counted",
    "before_after": "Scores before and after training",
}


def write_report(run_dir: RunDir) -> Path:
    """Write report.md, card.md and plots/*.png of a run; returns the report's path.

    Reads the run's own files only, so it can be repeated at any time. A section without figures is
    left out.
    """
    from ftcli.run.card import write_card
    from ftcli.run.plots import draw_plots

    folder = Path(run_dir.path)
    result = run_dir.result()
    plots = draw_plots(run_dir.metrics(), result, folder / "plots")
    parts = [
        f"# {title(folder)}",
        _build_choices_table(folder),
        _format_section("Scores", scores_table(result)),
        _format_section("Figures", figures_table(result)),
        _format_section("Pictures", "\n\n".join(_format_picture(path) for path in plots)),
        _format_section("Samples", "\n\n".join(_build_sample_tables(folder))),
        _format_section("How to repeat it", repeat_commands(folder)),
    ]
    path = folder / "report.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    write_card(run_dir)
    return path


def title(folder: Path) -> str:
    """Return the title of a run directory: `<name> <time>`."""
    return escape_markdown(" ".join(folder.resolve().parts[-2:]))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the run's resolved config as plain dicts; empty without config.yaml."""
    from omegaconf import OmegaConf

    path = folder / "config.yaml"
    loaded = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; empty without the file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def scores_table(result: Mapping[str, Any]) -> str:
    """Return a table of scores before and after training; empty without scores."""
    before, after = result.get("metrics_before") or {}, result.get("metrics") or {}
    names = [name for name in {**before, **after} if name.startswith("eval.")]
    rows = [
        (
            name.removeprefix("eval."),
            _format_number(before.get(name)),
            _format_number(after.get(name)),
        )
        for name in names
    ]
    return table(("score", "before", "after"), rows)


def figures_table(result: Mapping[str, Any]) -> str:
    """Return a table of the run's costs and sizes."""
    trainable, total = result.get("trainable_parameters"), result.get("total_parameters")
    share = f"{trainable:,} of {total:,} ({trainable / total:.2%})" if trainable and total else None
    rows = [
        ("status", result.get("status")),
        ("ended early", result.get("ended_early")),
        ("optimizer", result.get("optimizer")),
        ("optimizer steps", _format_whole(result.get("step"))),
        ("tokens", _format_whole(result.get("tokens"))),
        ("training time", _format_measured(result.get("seconds"), "{:,.0f} s")),
        ("speed", _format_measured(result.get("tok_s"), "{:,.0f} tokens/s, padding not counted")),
        ("peak memory", _format_measured(result.get("peak_memory_gb"), "{:.2f} GB")),
        ("trainable parameters", share),
        ("bits a quantised weight", _format_measured(result.get("bits_per_parameter"), "{:.3f}")),
        ("size of what was trained", _format_megabytes(result.get("adapter_bytes"))),
        ("rounds", _format_whole(result.get("rounds"))),
        (
            "sent to a client in a round",
            _format_measured(result.get("bytes_down"), "{:,.0f} bytes"),
        ),
        ("sent by a client in a round", _format_measured(result.get("bytes_up"), "{:,.0f} bytes")),
    ]
    return table(("figure", "value"), [(name, value) for name, value in rows if value is not None])


def repeat_commands(folder: Path) -> str:
    """Return the command as it was typed, and the one that repeats the run from its folder alone."""
    command = folder / "command.txt"
    typed = command.read_text(encoding="utf-8").strip() if command.exists() else ""
    alone = "From this folder alone:\n\n```\nftcli train config.yaml\n```"
    return f"```\n{typed}\n```\n\n{alone}" if typed else alone


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; empty without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_escape_cell, line)) + " |" for line in lines)


def _escape_cell(cell: Any) -> str:
    """Untrusted text as one cell of a Markdown table, on one line."""
    text = escape_markdown(" ".join(str(cell).split()))
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _build_choices_table(folder: Path) -> str:
    config = read_config(folder)
    ran = {"optimizer": read_json(folder / "result.json").get("optimizer")}
    chosen = [
        ("base model", config.get("model", {}).get("path")),
        ("weights stored as", _describe_storage(config.get("model", {}))),
        ("data", config.get("data", {}).get("path")),
        *((part, _describe_choice(config.get(part, {}), ran.get(part))) for part in CHOICES),
        ("seed", config.get("seed")),
    ]
    return table(("choice", "value"), [(k, v) for k, v in chosen if v is not None])


def _describe_storage(model: Mapping[str, Any]) -> str | None:
    kind = model.get("quantization")
    return kind if kind and kind != "none" else model.get("dtype")


def _describe_choice(node: Mapping[str, Any], ran: str | None = None) -> str | None:
    """`LoraConfig (r=16, lora_alpha=32)`: the class that a node chooses, and its options.

    Args:
        ran: the class that ran, which may replace the configured one where the machine does not support it.
    """
    from ftcli.config.job import KEYS_NOT_PASSED
    from ftcli.config.signature import NoSuchClass, read_signature

    target = node.get("_target_")
    if target is None:
        return None
    try:
        chooser = read_signature(target).library_parameter
    except NoSuchClass:
        chooser = None
    key = chooser.name if chooser else "_target_"
    name = str(node.get(key, chooser.default if chooser else target)).rpartition(".")[2]
    if ran and chooser and ran != name:
        name = f"{ran} in the place of {name}"
    hidden = ("_target_", key, *KEYS_NOT_PASSED)
    options = [f"{k}={v}" for k, v in node.items() if k not in hidden and v is not None]
    return f"{name} ({', '.join(options)})" if options else name


def _format_section(heading: str, body: str) -> str:
    return f"## {heading}\n\n{body}" if body else ""


def _format_picture(path: Path) -> str:
    return f"![{CAPTIONS[path.stem]}](plots/{path.name})"


def _build_sample_tables(folder: Path) -> list[str]:
    """A table for each task: some prompts with the answers before and after training."""
    steps: dict[str, list[int]] = {}
    for path in (folder / "samples").glob("*-*.jsonl"):
        step, _, task = path.stem.partition("-")
        if step.isdigit():
            steps.setdefault(task, []).append(int(step))
    return [
        _build_sample_table(folder, task, sorted(numbers))
        for task, numbers in sorted(steps.items())
    ]


def _build_sample_table(folder: Path, task: str, steps: Sequence[int]) -> str:
    files = [_read_samples(folder / "samples" / f"{step}-{task}.jsonl") for step in steps]
    last = files[-1]
    shown = {i * len(last) // SAMPLES_SHOWN for i in range(SAMPLES_SHOWN)} if last else set()
    rows = []
    for index in sorted(shown):
        sample = last[index]
        first = next((s for s in files[0] if s["prompt"] == sample["prompt"]), None)
        before = [first["prediction"] if first else ""] if len(steps) > 1 else []
        reference = (sample["references"] or [""])[0]
        rows.append(
            [
                _shorten_sample(t)
                for t in (sample["prompt"], *before, sample["prediction"], reference)
            ]
        )
    middle = [f"step {step}" for step in dict.fromkeys((steps[0], steps[-1]))]
    return table(["prompt", *middle, "a reference"], rows)


def _read_samples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _shorten_sample(text: str) -> str:
    flat = escape_controls(" ".join(text.split()))
    return flat if len(flat) <= CELL else flat[:CELL] + " …"


def _format_number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _format_whole(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _format_measured(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _format_megabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 1e6:.2f} MB"
