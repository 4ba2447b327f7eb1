"""What every program of the comparison is measured by: ends of steps, tokens without padding, peak memory.

Needs nothing but the standard library and the torch that a program has imported by its first step, so that it
runs in any environment and its own import costs no program time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

WARM = 3  # steps that are not timed; a task has more


def read_task() -> dict[str, Any]:
    """Return the task of the command line: a JSON object (`side_by_side.build_task` says of what)."""
    return dict(json.loads(sys.argv[1]))


def read_tokens(task: dict[str, Any]) -> list[dict[str, list[int]]]:
    """Return the tokens and labels of the rows that the steps of a task need."""
    wanted = task["steps"] * task["rows_a_step"]
    with open(Path(task["folder"]) / "tokens.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [rows[i % len(rows)] for i in range(wanted)]


def pack_length(rows: list[dict[str, list[int]]], rows_a_step: int) -> int:
    """Return the length of a pack that holds about as many tokens as a step of rows, a multiple of 64."""
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    return 64 * -(-int(max(mean * rows_a_step, longest)) // 64)


def read_status(key: str) -> float:
    """Return VmRSS or VmHWM of this process in MB (1e6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


class Meter:
    """Clock and scale of one process; seconds count from when the process was asked for (`task["began"]`).

    At the steps of `task["marks"]` the peak so far is noted.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self.began = task["began"]
        self.marks = set(task.get("marks", ()))
        self.ends: list[float] = []
        self.tokens: list[int] = [0]
        self.peak_mb_at: dict[int, float] = {}

    def end_step(self, tokens: int) -> None:
        """Record the end of an optimizer step, with all tokens so far."""
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.time())
        self.tokens.append(tokens)
        if len(self.ends) in self.marks:
            self.peak_mb_at[len(self.ends)] = read_status("VmHWM")

    def figures(self) -> dict[str, Any]:
        """Return tokens a second and seconds a step after the warm steps, the first step, peak memory in MB."""
        spent = self.ends[-1] - self.ends[WARM - 1]
        timed = zip(self.ends[WARM - 1 :], self.ends[WARM:], strict=False)
        return {
            "tok_s": (self.tokens[-1] - self.tokens[WARM]) / spent,
            "step_s": statistics.median(after - before for before, after in timed),
            "first_step_s": self.ends[0] - self.began,
            "peak_mb": _peak_mb(),
            "tokens": self.tokens[-1],
            "steps": len(self.ends),
            "peak_mb_at": self.peak_mb_at,
        }

    def report(self, **more: Any) -> None:
        """Print the figures as one line of JSON, the last of the process."""
        print(json.dumps(self.figures() | more), flush=True)


def _peak_mb() -> float:
    """Return the peak: what is allocated on a GPU, else the resident set of the process."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 1e6)
    return read_status("VmHWM")
