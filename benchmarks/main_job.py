"""The main job (QLoRA of SmolLM2 on E2E): tokens a second, its share of the matrix products' ceiling, memory over time.

Another checkout is measured in turn with this one, for figures before and after a change:

    git worktree add /tmp/before COMMIT
    python benchmarks/main_job.py --before /tmp/before
    python benchmarks/main_job.py --steps 600 --rounds 1 --out build/main_job_memory.json

The second, longer than 70 steps, shows how peak memory grows and has a block of the page of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.meter import WARM
from side_by_side import ROOT, describe_machine, measure_ceiling, run_program
from table import format_result

JOB = "qlora_llama"
SMOLLM2 = ROOT / "ftcli/assets/architectures/smollm2_135m"
EARLY = 70  # step at which the peak is noted, beside the last
COLUMNS = ("build", "tok_s", "to_before", "share", "step_s", "first_step_s", "peak_mb")
Record = dict[str, Any]


def build_main_task(steps: int, rows_a_step: int, cache: str, build: Path) -> Record:
    """Return the task of the main job in one checkout."""
    return {
        "folder": "", "precision": "bf16", "steps": steps, "job": JOB, "build": str(build),
        "marks": [EARLY, steps],
        "overrides": [
            f"trainer.batch_size={rows_a_step}", "eval=none", "trainer.eval_every=null",
            "trainer.precision=bf16", f"data.cache_dir={cache}",
        ],
    }  # fmt: skip


def measure_main_ceiling(figures: Record) -> Record:
    """Return the ceiling of the main job's products for the tokens and labels that a step had."""
    tokens, labels = (figures[key] // figures["steps"] for key in ("tokens", "labels"))
    return measure_ceiling(str(SMOLLM2), "bf16", tokens, labels)


def summarise(rounds: dict[str, list[Record]]) -> list[Record]:
    """Return a record a build: medians over its rounds, and its speed relative to the build before."""
    records = []
    for name, found in rounds.items():
        medians = {
            key: statistics.median(figures[key] for figures in found)
            for key in ("tok_s", "step_s", "first_step_s", "peak_mb")
        }
        peaks = [list(figures["peak_mb_at"].values()) for figures in found]
        if len(peaks[0]) == 2:  # a run of fewer steps has no early mark
            medians["peak_growth_mb"] = statistics.median(last - early for early, last in peaks)
        records.append({"build": name, **medians})
    if "before" in rounds:
        before = next(r for r in records if r["build"] == "before")
        for record in records:
            record["to_before"] = record["tok_s"] / before["tok_s"]
    return records


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="checkout of another build")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows-a-step", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "build/main_job.json")
    options = parser.parse_args()
    if options.steps <= WARM:
        parser.error(f"--steps: the first {WARM} are not timed")
    return options


def run_builds(options: argparse.Namespace) -> dict[str, list[Record]]:
    """Return the figures of every round of the builds, which take turns.

    Raises:
        SystemExit: a run failed.
    """
    builds = {"now": ROOT} | ({"before": options.before.absolute()} if options.before else {})
    rounds: dict[str, list[Record]] = {name: [] for name in builds}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, place in builds.items():
                cache = f"{folder}/{name}"
                task = build_main_task(options.steps, options.rows_a_step, cache, place)
                figures = run_program("ftcli", Path(sys.executable), task)
                if "error" in figures:
                    raise SystemExit(f"{name}: {figures['error']}")
                rounds[name].append(figures)
    return rounds


def main() -> None:
    """Run the rounds, write the result and print it."""
    options = parse_options()
    rounds = run_builds(options)
    ceiling = measure_main_ceiling(rounds["now"][0])
    records = summarise(rounds)
    for record in records:
        record["share"] = record["tok_s"] / ceiling["ceiling_tok_s"]
    result = describe(options, ceiling) | {"records": records}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print("\n\n".join(format_result(result).values()))


def describe(options: argparse.Namespace, ceiling: Record) -> Record:
    """Return what was measured, for the table."""
    machine = describe_machine(options.rounds)
    text = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['packages']['torch']}; "
        f"{options.rows_a_step} rows ({ceiling['step_tokens']} tokens) a step, {options.steps} steps, medians of "
        f"{options.rounds} rounds. The products alone: {ceiling['ceiling_tok_s']:,.0f} tokens/s, "
        f"{ceiling['gflop_s']:,.0f} GFLOP/s."
    )
    if options.steps <= EARLY:
        return {"kind": "main_job", "text": text, "columns": COLUMNS}
    text += f" `peak_growth_mb`: peak RSS from step {EARLY} to the last."
    return {"kind": "main_job_memory", "text": text, "columns": (*COLUMNS, "peak_growth_mb")}


if __name__ == "__main__":
    main()
