"""Side tuning: epochs with hidden states of the base computed anew, kept in memory, kept on disk; and QLoRA.

One process, one variant after the other, in turn for several rounds; same rows in the same order. Prints
seconds of the first epoch, of a later one, what is kept, and ratios to side tuning that keeps nothing.
Seconds are the process's own on a CPU, whatever else runs there, and the clock's on a GPU.

    python benchmarks/qst.py --quantization nf4
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import Callback
from ftcli.papers.qst.tuner import SideTunedBackbone
from ftcli.run.build import build_run

VARIANTS = {
    "qst": [],
    "memory": ["method.cache=memory"],
    "disk": ["method.cache=disk"],
    "qlora": ["method=lora", "method.r=16", "method.lora_alpha=32"],
}
Figures = dict[str, float]


class Epochs(Callback):
    """Seconds of each epoch, and bytes of hidden states that are kept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.kept = 0

    def before_step(self, state: Any) -> None:
        self.began = self.now()

    def after_step(self, state: Any) -> None:
        if len(self.seconds) <= state.epoch:
            self.seconds.append(0.0)
        self.seconds[state.epoch] += self.now() - self.began
        sides = [m for m in state.model.modules() if isinstance(m, SideTunedBackbone) and m.states]
        self.kept = sum(side.states.store.bytes for side in sides)

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def epochs(name: str, overrides: list[str]) -> Figures:
    """Train, and say what an epoch took."""
    composed = compose("qst", [*overrides, *VARIANTS[name]])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.loggers["epochs"] = clock = Epochs()
    run.trainer.fit(run)
    later = statistics.median(clock.seconds[1:])
    return {"first_epoch_s": clock.seconds[0], "later_epoch_s": later, "kept_mb": clock.kept / 1e6}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Median figures of every variant, and their ratios to side tuning that keeps nothing."""
    found: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
    for round_ in range(options.rounds + 1):
        for name in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:  # so that the disk is empty each time
                figures = epochs(name, overrides(options, folder))
            if round_:  # kernels are chosen in the first
                found[name].append(figures)
    medians = {
        name: {key: statistics.median(f[key] for f in all_) for key in all_[0]}
        for name, all_ in found.items()
    }
    plain = medians["qst"]
    ratios = {
        name: {key: figures[key] / plain[key] for key in ("first_epoch_s", "later_epoch_s")}
        for name, figures in medians.items()
    }
    return {"device": device(), "threads": torch.get_num_threads(), **medians, "ratio": ratios}


def overrides(options: argparse.Namespace, folder: str) -> list[str]:
    """The recipe of the paper on a few rows, unjudged."""
    return [
        f"model.quantization={options.quantization}", f"data.limit={options.rows}", "eval=none",
        f"data.cache_dir={folder}", f"trainer.batch_size={options.batch_size}",
        "trainer.max_steps=null", f"trainer.epochs={options.epochs}", "trainer.log_every=1000",
    ]  # fmt: skip


def device() -> str:
    """What it ran on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantization", choices=["none", "nf4"], default="nf4")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = compare(options)
    print(json.dumps(result, indent=2) if options.json else table(result))


def table(result: dict[str, Any]) -> str:
    """Figures and ratios, a line a variant."""
    lines = [
        f"{result['device']}, {result['threads']} threads",
        f"{'':10}{'first epoch':>13}{'later epoch':>13}{'ratio':>8}{'kept':>10}",
    ]
    for name in VARIANTS:
        f, ratio = result[name], result["ratio"][name]["later_epoch_s"]
        lines.append(
            f"{name:10}{f['first_epoch_s']:11.2f} s{f['later_epoch_s']:11.2f} s{ratio:8.2f}"
            f"{f['kept_mb']:7.1f} MB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
