"""Memory that autograd saves for backward in a usual step."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure
from ftcli.reproduce.measures.peak_saved_activation_bytes import measure_peaks


@measure
def mean_saved_activation_bytes(run: Path) -> float:
    """Return the mean over the first steps of the peak of saved bytes in each."""
    peaks = measure_peaks(run)
    return sum(peaks) / len(peaks)
