"""Supervised finetuning: ftcli's loop against a plain transformers + peft loop with padded batches.

Same model, rows, order of size, seed, adapter, optimizer and precision; one process, one after the
other, in turn for several rounds. Prints real tokens a second (padding not counted), growth of peak
memory, and time to the first step, and their ratios (ftcli / plain).

    python benchmarks/sft.py --precision fp32
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import heavy_tailed
import torch

from ftcli.config import compose, validate
from ftcli.core.callback import Callback
from ftcli.core.run import Run
from ftcli.run.build import build_run

WARM = 3  # steps that are not timed
Figures = dict[str, float]


class Memory:
    """Growth of peak memory over a block, in MB: allocated on a GPU, else resident of the process."""

    def __enter__(self) -> Memory:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the round before has freed
            Path("/proc/self/clear_refs").write_text("5")  # peak = now
            self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        after = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")
        self.growth_mb = (after - self.before) / 1e6


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class Clock(Callback):
    """Times of steps, seen from inside the loop."""

    def __init__(self, began: float) -> None:
        self.began, self.ends, self.tokens = began, [], [0]

    def after_step(self, state: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.tokens.append(state.tokens)

    def figures(self) -> Figures:
        spent = self.ends[-1] - self.ends[WARM - 1]
        return {
            "tok_s": (self.tokens[-1] - self.tokens[WARM]) / spent,
            "first_step_s": self.ends[0] - self.began,
        }


def ours(overrides: list[str]) -> Figures:
    """Train by ftcli, from composition to the last step."""
    began = time.perf_counter()
    composed = compose("qlora_mini", overrides)
    validate(composed)
    run = build_run(composed.config)
    run.loggers["clock"] = clock = Clock(began)
    run.trainer.fit(run)
    return clock.figures()


def plain(overrides: list[str]) -> Figures:
    """Train as the libraries' own examples do: pad, all logits, the model's own loss."""
    from transformers import AutoModelForCausalLM

    began = time.perf_counter()
    run = build_run(compose("qlora_mini", overrides).config)  # for the rows and the settings only
    torch.manual_seed(run.seed)
    source, device = run.model_source, run.accelerator.device
    base = AutoModelForCausalLM.from_pretrained(
        source.load_tokenizer().name_or_path, dtype=getattr(torch, source.dtype)
    )
    model = run.method.prepare(base.to(device)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.optimizer.lr, weight_decay=0.0)
    clock = Clock(began)
    for _, batch in zip(range(run.trainer.max_steps), _padded(run), strict=False):
        batch = {k: v.to(device) for k, v in batch.items()}
        with run.autocast():
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.ends.append(time.perf_counter())
        clock.tokens.append(clock.tokens[-1] + int(batch["attention_mask"].sum()))
    return clock.figures()


def _padded(run: Run) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the same rows in the same order, padded on the right as a collator does."""
    run.load_model()  # decides how rows are packed, without which there is no loader
    tokens, loader = run.data.prepare("train", run.tokenizer), run.build_loader()
    for epoch in range(1000):
        for rows in loader.list_batch_rows(epoch):
            found = [tokens.row(row) for row in rows]
            width = max(len(row["input_ids"]) for row in found)
            batch = {
                "input_ids": torch.zeros(len(rows), width, dtype=torch.long),
                "labels": torch.full((len(rows), width), -100),
                "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
            }
            for i, row in enumerate(found):
                size = len(row["input_ids"])
                batch["input_ids"][i, :size] = torch.as_tensor(row["input_ids"])
                batch["labels"][i, :size] = torch.as_tensor(row["labels"])
                batch["attention_mask"][i, :size] = 1
            yield batch


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
        result = compare(options, Path(folder))
    print(json.dumps(result, indent=2) if options.json else _table(result))


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Median figures of both loops over the rounds, and their ratios."""
    dtype = "bfloat16" if options.precision == "bf16" else "float32"
    overrides = [
        "data=prompt", f"data.path={folder}/rows.jsonl", "data.max_length=512",
        f"data.cache_dir={folder}", "model.quantization=none", "method=lora", f"model.dtype={dtype}",
        f"trainer.precision={options.precision}", f"trainer.batch_size={options.batch_size}",
        f"trainer.max_steps={options.steps}", "trainer.eval_first=false", "eval=none",
        "scheduler=constant", "trainer.log_every=1000",
    ]  # fmt: skip
    run = build_run(compose("qlora_mini", overrides).config)
    rows = options.batch_size * options.steps
    heavy_tailed.write(folder / "rows.jsonl", run.tokenizer, rows)
    lengths = run.data.prepare("train", run.tokenizer).lengths
    ours(overrides), plain(overrides)  # libraries loaded, kernels chosen
    found: dict[str, list[Figures]] = {"ftcli": [], "plain": []}
    for _ in range(options.rounds):
        for name, loop in (("ftcli", ours), ("plain", plain)):
            with Memory() as memory:
                figures = loop(overrides)
            found[name].append(figures | {"growth_mb": memory.growth_mb})
    medians = {
        name: {key: statistics.median(f[key] for f in all_) for key in all_[0]}
        for name, all_ in found.items()
    }
    ratios = {key: medians["ftcli"][key] / medians["plain"][key] for key in medians["plain"]}
    return {
        "precision": options.precision,
        "device": str(run.accelerator.device),
        "threads": torch.get_num_threads(),
        "rows": len(lengths),
        "mean_length": float(lengths.mean()),
        "longest": int(lengths.max()),
        **medians,
        "ratio": ratios,
    }


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['precision']} on {result['device']}, {result['threads']} threads, "
        f"{result['rows']} rows of {result['mean_length']:.0f} tokens (longest {result['longest']})",
        f"{'':14}{'ftcli':>10}{'plain':>10}{'ratio':>8}",
    ]
    for key in ("tok_s", "growth_mb", "first_step_s"):
        a, b = result["ftcli"][key], result["plain"][key]
        lines.append(f"{key:14}{a:10.1f}{b:10.1f}{result['ratio'][key]:8.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
