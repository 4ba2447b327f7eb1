"""What travels between the server and one client in a round."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def fedkseed_bytes(run: Path) -> float:
    """Bytes of the server's message and of the reply, as they were sent; a mean over the run."""
    from ftcli.core.run_dir import RunDir

    result = RunDir(run).result()
    return float(result["bytes_down"] + result["bytes_up"])
