"""What autograd keeps for backward in a usual step."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure
from ftcli.reproduce.measures.peak_saved_activation_bytes import measure_peaks


@measure
def mean_saved_activation_bytes(run: Path) -> float:
    """Mean over the first steps of the run of the most that is kept at one time in each."""
    peaks = measure_peaks(run)
    return sum(peaks) / len(peaks)
