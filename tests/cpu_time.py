"""Processor time of a command as a ratio to a reference, which another machine or other work does not change."""

import os
import subprocess
import sys


def compare_cpu_time(command: list[str], reference: list[str], rounds: int = 3) -> float:
    """Return the CPU seconds of `python command` over those of `python reference`, the best of interleaved rounds."""
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for spent, arguments in zip(times, (command, reference), strict=True):
            spent.append(_measure_cpu_seconds([sys.executable, *arguments]))
    return min(times[0]) / max(min(times[1]), 0.01)


def _measure_cpu_seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system
