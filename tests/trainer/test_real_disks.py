"""Checkpoints on a full tmpfs, in a folder without permission, and beside another process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from ftcli.core import disk
from ftcli.core.errors import UserError
from ftcli.core.run_lock import lock_run
from tests.trainer.small_context import Small

WIDTH = 256  # 0.8 MB a checkpoint
NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Write until `leave` bytes are free."""
    with open(folder / "other", "ab") as stream:
        stream.write(bytes(max(0, disk.free_bytes(folder) - leave)))


@pytest.mark.parametrize("left", [0, 5_000, 100_000, 300_000, 500_000, 780_000])
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_disk_that_fills_up(small_disk, left, foreseen, monkeypatch, caplog):
    """Not foreseen: as if another program had just filled the free space."""
    context = Small(small_disk / "run", WIDTH)
    context.train()
    before = context.save(2)
    fill(small_disk, left)
    if not foreseen:
        monkeypatch.setattr(disk, "require_space", lambda folder, needed: None)
    assert context.save(4, required=False) is None
    assert "step-000004 was not saved: the disk is full" in caplog.text
    with pytest.raises(UserError, match="step-000004 was not saved: the disk is full") as caught:
        context.save(4)
    assert "free space, then: ftcli resume" in str(caught.value)
    names = sorted(path.name for path in context.checkpoints.folder.iterdir())
    assert names == ["last", "step-000002"]
    assert context.checkpoints.find("last") == before
    (small_disk / "other").unlink()
    assert context.save(6).name == "step-000006" == context.checkpoints.find("last").name


@pytest.fixture
def as_nobody():
    """Become a user without rights; return a folder of that user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    yield folder
    os.seteuid(0)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written(as_nobody, caplog):
    context = Small(as_nobody / "run")
    context.save(2)
    context.checkpoints.folder.chmod(0o555)
    assert context.save(4, required=False) is None and "no permission for" in caplog.text
    with pytest.raises(UserError, match="step-000004 was not saved: no permission") as caught:
        context.save(4)
    assert "make it readable and writable, then: ftcli resume" in str(caught.value)
    context.checkpoints.folder.chmod(0o755)
    assert context.save(6).name == "step-000006"
    assert context.names() == ["step-000002", "step-000006"]


def test_a_run_in_a_folder_that_may_not_be_written(as_nobody):
    from ftcli.core.run_dir import RunDir

    as_nobody.chmod(0o555)
    with pytest.raises(UserError, match="the run cannot be written: no permission") as caught:
        RunDir.create(as_nobody / "runs", "x")
    assert "run.dir=FOLDER" in str(caught.value)


def test_one_process_a_run(tmp_path):
    """A second process waits, and ends with a message after a while; the lock of a killed one is free."""
    reader, writer = os.pipe()
    other = os.fork()
    if other == 0:
        with lock_run(tmp_path):
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    with pytest.raises(UserError, match="another process trains this run") as caught:
        with lock_run(tmp_path, patience=0.2):
            pass
    assert f"touch {tmp_path}/STOP" in str(caught.value)
    os.kill(other, 9)
    os.waitpid(other, 0)
    with lock_run(tmp_path, patience=0.2), lock_run(tmp_path, patience=0.0):
        pass


def test_a_run_killed_before_its_report_gets_it(train_tiny):
    from ftcli.jobs.train import resume

    run = train_tiny("~eval", "method.r=2", "run.name=unreported")
    with pytest.raises(UserError, match="is finished"):
        resume(run)
    (run / "report.md").unlink()
    (run / ".report.md.x1.unfinished").touch()
    assert resume(run)["status"] == "finished"
    assert (run / "report.md").exists() and not (run / ".report.md.x1.unfinished").exists()
