"""What ComPEFT saves of an adapter, in bytes of files."""

from __future__ import annotations

from pathlib import Path

DENSITY = 0.2


def compeft_times_smaller(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the whole ternary file, at 20 %."""
    import tempfile

    from ftcli.deltas import storage, ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import opened

    made, coded = compeft.compress(opened(run).delta, DENSITY)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "small"
        storage.save(made, target, coded=ternary.write(coded))
        size = (target / storage.TERNARY).stat().st_size
    return 2 * made.entries / size
