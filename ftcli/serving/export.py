"""A trained run in the format of other programs: merged safetensors, or GGUF by llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from ftcli.deltas.merge import MergeReport, merge_run
from ftcli.errors import FAILED, UserError

FORMATS = ("hf", "safetensors", "gguf")
CONVERTER = "convert_hf_to_gguf.py"


def export_run(
    path: str | Path, form: str, output: str | Path | None = None, checkpoint: str = "last"
) -> MergeReport:
    """Write the run's merged model as `form`; hf and safetensors are the same folder.

    Raises:
        UserError: unknown format, or llama.cpp's converter is not on the PATH (said before any
            work is done, with the commands to run by hand).
    """
    if form not in FORMATS:
        raise UserError(
            f"{form}: no such format.", where="--to", fix=f"one of {', '.join(FORMATS)}"
        )
    target = Path(output) if output else Path(path) / "export" / form
    if form == "gguf":
        target = target.with_suffix("")
    if form != "gguf":
        return merge_run(path, target, checkpoint)
    converter = shutil.which(CONVERTER)
    if converter is None:
        raise UserError(
            f"GGUF is written by llama.cpp's {CONVERTER}, which is not on the PATH.",
            where="--to gguf",
            fix=f"ftcli merge {path} --to {target}-hf && "
            f"python llama.cpp/{CONVERTER} {target}-hf --outfile {target}.gguf",
        )
    report = merge_run(path, f"{target}-hf", checkpoint)
    done = subprocess.run([converter, f"{target}-hf", "--outfile", f"{target}.gguf"], check=False)
    if done.returncode:
        raise UserError(
            f"{CONVERTER} ended with status {done.returncode}; the merged model is kept.",
            where=f"{target}-hf",
            code=FAILED,
        )
    file = Path(f"{target}.gguf")
    return replace(report, folder=str(file), bytes=file.stat().st_size)
