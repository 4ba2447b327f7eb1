"""Supervised finetuning: ftcli's loop against a plain transformers + peft loop with padded batches.

The protocol of `ftcli bench --against plain` on rows whose lengths have a heavy tail, in float32 or bfloat16.

    python benchmarks/sft.py --precision fp32
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import heavy_tailed

from ftcli.cli.bench_table import format_bench
from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.jobs.bench import bench
from ftcli.run.build import build_run


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = compare(options, Path(folder))
        except UserError as error:
            sys.exit(str(error))
    print(json.dumps(result, indent=2) if options.json else format_bench(result))


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Median figures of both loops over the rounds, and their ratios."""
    dtype = "bfloat16" if options.precision == "bf16" else "float32"
    overrides = [
        "data=prompt", f"data.path={folder}/rows.jsonl", "data.max_length=512",
        f"data.cache_dir={folder}", "model.quantization=none", "method=lora", f"model.dtype={dtype}",
        f"trainer.precision={options.precision}", f"trainer.batch_size={options.batch_size}",
        "eval=none", "scheduler=constant",
    ]  # fmt: skip
    composed = compose("qlora_mini", overrides)
    tokenizer = build_run(composed.config).tokenizer
    heavy_tailed.write(folder / "rows.jsonl", tokenizer, options.batch_size * options.steps)
    validate_and_convert(composed)
    return bench(composed.config, options.steps, options.rounds, against="plain")


if __name__ == "__main__":
    main()
