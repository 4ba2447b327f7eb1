"""A real little run through the public verbs: train, save, be cut off, resume, compare."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ftcli.core.errors import UserError
from ftcli.planning.findings import Finding, failed, ok

STEPS, CUT = 3, 2  # steps of the run, and after how many it is cut off
JOB = "qlora_llama"
SMALL = (
    f"trainer.max_steps={STEPS}", "trainer.save_every=1", "trainer.batch_size=4", "eval=none",
    "data.limit=64", "data.validation=null", "data.test=null", "run.name=doctor",
)  # fmt: skip
SECONDS = 300  # after which a verb is taken for stuck


def trial() -> Iterator[Finding]:
    """Train 3 steps of the shipped job; then as if it had died after 2, resume; the weights are equal."""
    with TemporaryDirectory(prefix="ftcli-doctor-") as folder:
        try:
            began = time.perf_counter()
            _ftcli("train", JOB, *SMALL, f"run.dir={folder}", f"data.cache_dir={folder}/cache")
            yield ok("train", f"{STEPS} steps of {JOB} and its checkpoints in {_since(began)}")
            run = (Path(folder) / "doctor" / "latest").resolve()
            whole = _trained(run)
            _cut(run)
            began = time.perf_counter()
            _ftcli("resume", str(run))
            if _trained(run) != whole:
                raise UserError("the resumed run has other weights than the uninterrupted one.")
            yield ok("resume", f"from step {CUT}, to bit-identical weights, in {_since(began)}")
        except UserError as error:
            yield failed("train", error)


def _ftcli(*words: str) -> None:
    """Run a verb in a process of its own.

    Raises:
        UserError: it ended with another status than 0; its last lines are the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "ftcli", *words], capture_output=True, text=True, timeout=SECONDS,
        env=os.environ | {"FTCLI_QUIET": "1"},
    )  # fmt: skip
    if done.returncode:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-6:])
        raise UserError(f"ftcli {words[0]} ended with status {done.returncode}: {said}")


def _cut(run: Path) -> None:
    """Leave what a run has on disk that died after the checkpoint of step `CUT`."""
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / f"step-{STEPS:06d}")
    last = checkpoints / "last"
    last.unlink(missing_ok=True)
    last.symlink_to(f"step-{CUT:06d}")
    shutil.rmtree(run / "adapter")
    (run / "result.json").unlink()


def _trained(run: Path) -> bytes:
    files = sorted((run / "adapter").glob("*.safetensors"))
    if not files:
        raise UserError("the run has written no adapter.")
    return b"".join(file.read_bytes() for file in files)


def _since(began: float) -> str:
    return f"{time.perf_counter() - began:.1f} s"
