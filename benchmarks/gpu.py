"""The runs of `gpu.sh`: shapes x LoRA and QLoRA x programs, each a process of its own, within a budget of seconds.

What does not fit the budget is named as left out. The share is a program's operations a second, counted as
`ceiling.py` counts them, over those of a large matrix product in bfloat16 on the same device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ceiling import RANK, Product, count_products, time_product
from side_by_side import ROOT, build_task, describe_machine, run_program
from table import format_record, format_result
from workload import SHAPES, Shape, describe_rows, write_workload

Record = dict[str, Any]
PROGRAMS = ("ftcli", "plain", "trl")
METHODS = {"LoRA": "none", "QLoRA": "nf4"}
SHAPES_ON_GPU = ("llama3.2-1b", "llama3-8b")
STEPS, ROWS_A_STEP = 12, 24  # about 4,000 tokens a step
DRY_STEPS, DRY_ROWS = 5, 2
LARGE = Product(8192, 8192, 8192)
COLUMNS = (
    "shape", "method", "program", "tok_s", "peak_mb", "share", "first_step_s", "trained", "error",
)  # fmt: skip
MODULES = {"FlashAttention": "flash_attn", "Liger": "liger_kernel"}  # that peers take if installed


def choose_kernels(program: str, dry: bool) -> Record:
    """Return the task's fields by which a peer takes FlashAttention and Liger, as far as they are installed."""
    missing = name_missing(dry)
    flash, liger = "FlashAttention" not in missing, "Liger" not in missing
    attention = "flash_attention_2" if flash else "sdpa"
    return {
        "ftcli": {},
        "plain": {"attention": attention, "flatten": flash},
        "trl": {"attention": attention, "liger": liger},
    }[program]


def name_missing(dry: bool) -> list[str]:
    """Return what the peers do without: what is not installed, everything on a CPU."""
    return [name for name, module in MODULES.items() if dry or find_spec(module) is None]


def count_operations(shape: Shape, rows: Record) -> float:
    """Return operations (GFLOP) a token of the products of a step."""
    tokens = 1000
    counts = count_products(shape, tokens, round(tokens * rows["label_share"]), RANK)
    return sum(count * product.flops for product, count in counts.items()) / tokens / 1e9


def run_all(
    shapes: Sequence[str], folder: Path, dry: bool, remaining: Callable[[], float]
) -> list[Record]:
    """Return a record a shape, method and program; those out of time say so."""
    steps, size = (DRY_STEPS, DRY_ROWS) if dry else (STEPS, ROWS_A_STEP)
    records = []
    for shape in shapes:
        place = folder / shape
        write_workload(place, SHAPES[shape], "bfloat16", steps * size, size)
        operations = count_operations(SHAPES[shape], describe_rows(place))
        for method, quantization in METHODS.items():
            for program in PROGRAMS:
                row = {"shape": shape, "precision": "bf16", "method": method, "program": program}
                if remaining() < 10:
                    records.append(row | {"error": "left out: no time"})
                    continue
                kernels = choose_kernels(program, dry)
                task = build_task(place, "bf16", steps, size, quantization=quantization, **kernels)
                found = run_program(program, Path(sys.executable), task, remaining())
                if "tok_s" in found:
                    found["gflop_s"] = found["tok_s"] * operations
                records.append(row | found)
                print(method, format_record(records[-1]), file=sys.stderr, flush=True)
    return records


def measure_peak(dry: bool) -> float:
    """Return the GFLOP/s of a large product in bfloat16."""
    product = Product(512, 512, 512) if dry else LARGE
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return product.flops / time_product(product, "bfloat16", device) / 1e9


def parse_options() -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        SystemExit: there is no GPU, and no dry run was asked for.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu-dry-run", action="store_true", help="tiny shapes, without a GPU")
    parser.add_argument("--seconds", type=float, default=450, help="budget of all runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu.json")
    options = parser.parse_args()
    if not options.cpu_dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible to torch: --cpu-dry-run exercises the code without one")
    return options


def main() -> None:
    """Run what fits the budget, write the result and print it."""
    options = parse_options()
    dry, end = options.cpu_dry_run, time.monotonic() + options.seconds
    shapes = options.shapes or (["nano"] if dry else SHAPES_ON_GPU)
    peak = measure_peak(dry)
    with tempfile.TemporaryDirectory() as folder:
        records = run_all(shapes, Path(folder), dry, lambda: end - time.monotonic())
    for record in records:
        if "gflop_s" in record:
            record["share"] = record["gflop_s"] / peak
    result = describe(dry, peak) | {"records": records}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print("\n\n".join(format_result(result).values()))


def describe(dry: bool, peak: float) -> Record:
    """Return what was measured, for the table."""
    machine, without = describe_machine(rounds=1), name_missing(dry)
    text = f"{machine['device']}, torch {machine['packages']['torch']}; peak measured at {peak / 1000:,.2f} TFLOP/s."
    if dry:
        text = f"A dry run on a CPU, whose figures mean nothing: {text}"
    if without:
        text += f" The peers run without {' and '.join(without)}."
    return {"kind": "gpu", "text": text, "columns": COLUMNS}


if __name__ == "__main__":
    main()
