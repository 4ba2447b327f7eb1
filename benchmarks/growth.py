"""How the time of a step and memory grow with tokens in a row, rows, layers and adapters.

One process a point and round. Time is the median of the steps after three, in a round, then of the rounds; memory is how far
training raises the resident set above the loaded model, and the peak of the process. Preparing rows
is timed from the file to tokens that can be read, in an empty cache. An exponent is the slope of
a line through the logarithms: 1 is proportional, 0 does not grow.

    python benchmarks/growth.py --out build/growth.json        # plots to docs/growth/
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import data as preparation
import workload
from side_by_side import ROOT, build_task, describe_machine, run_program
from workload import SHAPES, Shape

Record = dict[str, Any]
STEPS = 8
ROWS_A_STEP = 4
TARGETS = {
    1: ["q_proj"],
    2: ["q_proj", "v_proj"],
    4: ["q_proj", "k_proj", "v_proj", "o_proj"],
    7: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
POINTS = {
    "tokens": [256, 512, 1024, 2048, 4096, 8192],
    "rows": [1_000, 10_000, 100_000, 1_000_000],
    "layers": [4, 8, 16, 32, 48],
    "adapters": [12, 24, 48, 84],
}
SHORT = {"tokens": [256, 512], "rows": [1_000, 2_000], "layers": [2, 4], "adapters": [12, 84]}
AXES = {
    "tokens": "tokens in a row (4 layers of width 256, one row a step)",
    "rows": "rows prepared (one process, empty cache)",
    "layers": "layers of width 256 (4 rows a step)",
    "adapters": "adapters: linear layers with LoRA of rank 16 (12 layers of width 256, 4 rows a step)",
}
FIGURES = {"step_s": "time", "rise_mb": "rise while training", "peak_mb": "peak of the process"}


def write_long_rows(path: Path, tokens: int, count: int) -> None:
    """Write conversations of one turn whose answer fills the row up to `tokens` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(workload.TOKENIZER / "tokenizer.json"))
    with gzip.open(workload.ASSETS / "data/gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        text = "\n".join(json.loads(line)["answer"] for line in file)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    room = tokens - 20  # the template's tokens and the question
    with open(path, "w", encoding="utf-8") as file:
        for row in range(count):
            begin = row * 997 % max(1, len(ids) - room)
            answer = tokenizer.decode(ids[begin : begin + room])
            turn = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turn}) + "\n")


def train(folder: Path, shape: Shape, rows_a_step: int, overrides: Sequence[str]) -> Record:
    """Return seconds of a step, tokens, and memory of one run in bfloat16 on the rows of the folder."""
    workload.write_model(folder / "model", shape, "bfloat16")
    task = build_task(folder, "bf16", STEPS, rows_a_step, rise=True, overrides=overrides)
    return run_program("ftcli", Path(sys.executable), task)


def measure_tokens(tokens: int, folder: Path) -> Record:
    """Train on rows of one length; the point is the length that the tokenizer made of it."""
    write_long_rows(folder / "rows.jsonl", tokens, STEPS)
    shape = replace(SHAPES["tiny"], max_position_embeddings=2 * tokens)
    figures = train(folder, shape, 1, [f"data.max_length={2 * tokens}"])
    return figures if "error" in figures else figures | {"value": figures["tokens"] / STEPS}


def train_on_ragged(folder: Path, layers: int, overrides: Sequence[str] = ()) -> Record:
    """Train so many layers of width 256 on the rows of the comparison."""
    workload.write_rows(folder / "rows.jsonl", STEPS * ROWS_A_STEP)
    shape = replace(SHAPES["tiny"], num_hidden_layers=layers)
    return train(folder, shape, ROWS_A_STEP, overrides)


def measure_layers(layers: int, folder: Path) -> Record:
    """Train a model of so many layers."""
    return train_on_ragged(folder, layers)


def measure_adapters(adapters: int, folder: Path) -> Record:
    """Train so many adapters in a model of 12 layers."""
    targets = ",".join(TARGETS[adapters // 12])
    return train_on_ragged(folder, 12, [f"method.target_modules=[{targets}]"])


def measure_rows(rows: int, folder: Path) -> Record:
    """Prepare so many rows by ftcli."""
    preparation.write_rows(folder / "rows.jsonl", rows)
    found = preparation.run_process("ftcli", folder / "rows.jsonl", folder / "cache")
    return {"step_s": found["seconds"], "rise_mb": found["rise_mb"], "peak_mb": found["peak_mb"]}


MEASURES: dict[str, Callable[[int, Path], Record]] = {
    "tokens": measure_tokens,
    "rows": measure_rows,
    "layers": measure_layers,
    "adapters": measure_adapters,
}


def measure(axis: str, points: Iterable[int], rounds: int) -> Iterator[Record]:
    """Yield one record a point: medians over the rounds.

    Raises:
        RuntimeError: a run failed.
    """
    for point in points:
        found = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                figures = MEASURES[axis](point, Path(folder))
            if "error" in figures:
                raise RuntimeError(f"{axis} {point}: {figures['error']}")
            found.append(figures)
        medians = {key: statistics.median(figures[key] for figures in found) for key in FIGURES}
        yield {"axis": axis, "value": found[0].get("value", point), **medians}


def fit_axis(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the exponents of an axis, slopes of least squares; None where a figure is not positive."""
    values = [math.log(record["value"]) for record in records]
    fitted: dict[str, float | None] = {}
    for key in FIGURES:
        figures = [record[key] for record in records]
        fitted[key] = None
        if min(figures) > 0:
            fitted[key] = statistics.linear_regression(values, list(map(math.log, figures))).slope
    return fitted


def plot(axis: str, records: Sequence[Record], path: Path) -> None:
    """Draw time and memory of one axis over its values, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "ftcli", "svg.fonttype": "none"}
    from matplotlib import pyplot

    exponents, values = fit_axis(records), [record["value"] for record in records]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for key, title in FIGURES.items():
        shown = title if exponents[key] is None else f"{title}, exponent {exponents[key]:.2f}"
        panel = panels[0 if key == "step_s" else 1]
        panel.plot(values, [record[key] for record in records], marker="o", label=shown)
    time_of = "seconds to prepare" if axis == "rows" else "seconds a step"
    for panel, ylabel in zip(panels, (time_of, "MB"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis].split(" (")[0], ylabel=ylabel)
        panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def describe(records: Sequence[Record], rounds: int, plots: Path) -> Record:
    """Return the result for `table.py`: machine, exponents, plots, and a row a point."""
    machine = describe_machine(rounds)
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['packages']['torch']}; bf16, medians of "
        f"{rounds} rounds. `step_s` is the time of a step, of all rows on the axis `rows`."
    ]
    for axis in dict.fromkeys(record["axis"] for record in records):
        found = fit_axis([record for record in records if record["axis"] == axis])
        said = ", ".join(
            f"{title} {found[key]:.2f}" for key, title in FIGURES.items() if found[key] is not None
        )
        lines.append(
            f"- **{axis}**, {AXES[axis]}: exponents of {said}\n\n  ![{axis}]({plots.name}/{axis}.svg)"
        )
    columns = ["axis", "value", *FIGURES]
    return {"kind": "growth", "text": "\n".join(lines), "columns": columns, "records": records}


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="two small points an axis, one round")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs/growth")
    parser.add_argument("--out", type=Path, default=ROOT / "build/growth.json")
    options = parser.parse_args()
    if options.short:
        options.rounds = 1
    return options


def main() -> None:
    """Measure the axes, draw them and write the records."""
    options = parse_options()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for axis in options.axes:
        of_axis = []
        points = (SHORT if options.short else POINTS)[axis]
        for record in measure(axis, points, options.rounds):
            print(json.dumps(record), file=sys.stderr, flush=True)
            of_axis.append(record)
        records += of_axis
        plot(axis, of_axis, options.plots / f"{axis}.svg")
        result = describe(records, options.rounds, options.plots)
        options.out.write_text(json.dumps(result, indent=1))
    print(result["text"])


if __name__ == "__main__":
    main()
