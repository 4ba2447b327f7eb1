"""Damaged checkpoints, full disks and missing permissions are detected, reported and survived."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil

import pytest
import torch

from ftcli.core import atomic, disk
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.trainer import checkpoint, manifest
from ftcli.trainer.checkpoint_io import WEIGHTS
from tests.trainer.small_context import Small


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Skip fsync, which only matters for power cuts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def small(tmp_path):
    """Checkpoints of steps 2 and 4."""
    context = Small(tmp_path / "run")
    context.save(2)
    context.save(4)
    return context


def shorten(path):
    os.truncate(path, path.stat().st_size - 3)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = [
    "adapter.safetensors", "adapter_config.json", "optimizer.pt", "participants.pt", "rng.pt",
    "loader.json", "state.json",
]  # fmt: skip


def test_the_list_names_every_file(small):
    folder = small.checkpoints.find("last")
    listed = json.loads((folder / "DONE").read_text())
    assert sorted(listed) == sorted(FILES)
    for name, about in listed.items():
        assert about == {
            "bytes": (folder / name).stat().st_size,
            "sha256": manifest.sha256(folder / name),
        }


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("harm", "reported"),
    [(shorten, "bytes, not the"), (flip, "has other content"), (os.unlink, "is missing")],
)
def test_a_damaged_file_is_named_and_the_one_before_is_taken(small, name, harm, reported, caplog):
    harm(small.run.dir.checkpoints / "step-000004" / name)
    with pytest.raises(UserError, match=f"step-000004 is damaged: {name} .*{reported}") as caught:
        small.checkpoints.find("step-000004")
    assert "--checkpoint step-000002 (undamaged: step-000002)" in str(caught.value)
    with pytest.raises(UserError, match=f"damaged: {name}"):
        small.checkpoints.find("last")  # no other weights are returned in its place
    with caplog.at_level(logging.WARNING, "ftcli"):
        assert small.checkpoints.find("last", fall_back=True).name == "step-000002"
    assert name in caplog.text and "going on from step-000002" in caplog.text
    event = small.events()[-1]
    assert event["event"] == "damaged_checkpoint" and event["path"] == "step-000004"
    assert name in event["problem"]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"rng.pt": 3}', '{"../x": {"bytes": 1, "sha256": ""}}']
)
def test_a_damaged_list_is_damage(small, text):
    (small.run.dir.checkpoints / "step-000004" / "DONE").write_text(text)
    with pytest.raises(UserError, match="DONE is no list of files"):
        small.checkpoints.find("step-000004")


def test_a_checkpoint_of_another_run_is_none_of_this_one(small, tmp_path):
    other = Small(tmp_path / "other")
    other.save(4)
    with pytest.raises(UserError, match="there is no checkpoint"):
        small.checkpoints.find(str(other.checkpoints.folder / "step-000004"))


def test_where_there_is_none_the_run_begins_with_resume(tmp_path):
    with pytest.raises(UserError, match=f"(?s)there is: none.*ftcli resume {tmp_path}/run"):
        Small(tmp_path / "run").checkpoints.find("last")


def test_where_nothing_is_whole_the_run_can_be_repeated(small):
    for name in small.names():
        flip(small.run.dir.checkpoints / name / "optimizer.pt")
    with pytest.raises(UserError, match=r"ftcli train .*config\.yaml"):
        small.checkpoints.find("last", fall_back=True)


def test_to_use_weights_only_weights_are_read(small):
    flip(small.run.dir.checkpoints / "step-000004" / "optimizer.pt")
    assert small.checkpoints.find("last", verify_files=WEIGHTS).name == "step-000004"
    shorten(small.run.dir.checkpoints / "step-000004" / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer\.pt"):
        small.checkpoints.find("last", verify_files=WEIGHTS)


def test_folders_without_checksums_are_checked_by_what_files_say_of_themselves(small):
    folder = small.run.dir.checkpoints / "step-000004"
    (folder / "DONE").write_text("")
    assert small.checkpoints.find("last") == folder
    shorten(folder / "rng.pt")
    with pytest.raises(UserError, match=r"rng\.pt is incomplete"):
        small.checkpoints.find("last")


def test_the_millionth_step_is_later_than_the_one_before(tmp_path):
    context = Small(tmp_path / "run")
    for step in (999_998, 999_999, 1_000_000):
        context.save(step)
    assert context.names() == ["step-999999", "step-1000000"]
    assert context.checkpoints.find("last").name == "step-1000000"


def test_nothing_older_goes_while_the_newest_is_not_whole(small, monkeypatch, caplog):
    real = os.replace

    def tears(source, target):
        real(source, target)
        if str(target).endswith("step-000006"):
            shorten(small.run.dir.checkpoints / "step-000006" / "adapter.safetensors")

    monkeypatch.setattr(os, "replace", tears)
    small.save(6)
    assert small.names() == ["step-000002", "step-000004", "step-000006"]
    assert "older checkpoints are kept" in caplog.text
    assert small.checkpoints.find("last", fall_back=True).name == "step-000004"


def test_going_on_from_an_earlier_one_takes_back_the_later_ones(small):
    """Otherwise the checkpoint of the highest step, perhaps damaged or of the earlier run, would be kept and resumed."""
    small.checkpoints.keep = 1
    start = small.checkpoints.find("step-000002")
    small.checkpoints.prepare_folder(small, start)
    assert small.names() == ["step-000002"]
    assert (small.checkpoints.folder / "last").resolve() == start
    small.save(3)
    assert small.names() == ["step-000003"]
    assert sorted(p.name for p in small.checkpoints.folder.iterdir()) == ["last", "step-000003"]


def test_links_that_a_crash_left_undone_are_made(small):
    small.save(6, best=True)
    for name in ("last", "best"):
        atomic.write_link(small.checkpoints.folder / name, "step-000004")
    small.checkpoints.prepare_folder(small, small.checkpoints.find("last"))
    for name in ("last", "best"):
        assert (small.checkpoints.folder / name).resolve().name == "step-000006"


def test_a_save_of_the_same_step_that_dies_half_way_loses_nothing(small, monkeypatch):
    real, before = os.replace, small.checkpoints.find("last")
    content = manifest.sha256(before / "optimizer.pt")

    def dies(source, target):
        if str(target).endswith("step-000004"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    monkeypatch.setattr(atomic, "recover", lambda parent: None)  # a kill recovers nothing
    with pytest.raises(KeyboardInterrupt):
        small.save(4)
    monkeypatch.undo()
    assert small.names() == ["step-000002"]
    small.checkpoints.prepare_folder(small, None)
    assert manifest.sha256(small.checkpoints.find("step-000004") / "optimizer.pt") == content


def full(small, monkeypatch, free):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: free)


def test_a_full_disk_is_foreseen_and_training_goes_on(small, monkeypatch, caplog):
    full(small, monkeypatch, 1000)
    monkeypatch.setattr(checkpoint, "write_checkpoint_files", None)  # no write is started
    assert small.save(6, required=False) is None
    assert "step-000006 was not saved: the disk is full: it needs 1.1 MB, 1.0 kB are free" in (
        caplog.text
    )
    assert small.events()[-1]["event"] == "checkpoint_refused"
    assert small.names() == ["step-000002", "step-000004"]


def test_the_last_save_on_a_full_disk_says_what_to_do(small, monkeypatch):
    full(small, monkeypatch, 1000)
    with pytest.raises(
        UserError, match="step-000006 was not saved: the disk is full.*before is intact"
    ) as caught:
        small.save(6)
    assert f"free space, then: ftcli resume {small.run.dir.path}" in str(caught.value)
    assert small.checkpoints.find("last").name == "step-000004"


def test_a_run_that_could_not_save_does_not_start(small, monkeypatch):
    full(small, monkeypatch, 1000)
    with pytest.raises(UserError, match="no checkpoint could be saved: the disk is full"):
        small.checkpoints.prepare_folder(small, None)


def test_checkpoints_that_will_not_all_fit_are_announced_once(tmp_path, monkeypatch, caplog):
    context = Small(tmp_path / "run", width=256)
    context.train()
    full(context, monkeypatch, 2_200_000)  # of 0.8 MB a checkpoint; one of them fits
    for step in (1, 2):
        context.save(step)
    assert caplog.text.count("later checkpoints may be left out") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("file", ["optimizer.pt", "rng.pt", "state.json", "DONE", "step-000006"])
def test_a_disk_that_refuses_in_the_middle_leaves_no_half(small, monkeypatch, code, file, caplog):
    """The error occurs with a file half written, as on a disk that fills up."""
    real, saved = os.replace, torch.save

    def replace(source, target):
        if str(target).endswith(file):
            raise OSError(code, os.strerror(code), str(target))
        real(source, target)

    def save(value, stream):
        saved(value, stream)
        if stream.name.endswith(file):
            raise OSError(code, os.strerror(code), stream.name)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(torch, "save", save)
    assert small.save(6, required=False) is None
    with pytest.raises(UserError, match="fix: (free space|make it readable)"):
        small.save(6)
    monkeypatch.undo()
    assert sorted(p.name for p in small.checkpoints.folder.iterdir()) == [
        "last", "step-000002", "step-000004",
    ]  # fmt: skip
    assert "Training goes on" in caplog.text
    assert small.save(8).name == "step-000008"


def test_a_link_that_is_refused_is_made_on_resume(small, monkeypatch, caplog):
    """At the end of a run no later save would repair it, so the run ends with an error."""
    real = os.replace

    def replace(source, target):
        if str(target).endswith("last"):
            raise OSError(errno.ENOSPC, "full", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert small.save(6, required=False).name == "step-000006" and "is saved, but" in caplog.text
    with pytest.raises(UserError, match="step-000008 was saved; .* the disk is full"):
        small.save(8)
    monkeypatch.undo()
    assert not list(small.checkpoints.folder.glob(".*"))
    small.checkpoints.prepare_folder(small, small.checkpoints.find("last"))
    assert (small.checkpoints.folder / "last").resolve().name == "step-000008"


def test_other_errors_are_not_hidden(small, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small.save(6, required=False)


def test_what_a_library_says_of_a_full_disk_is_understood():
    from safetensors import SafetensorError

    error = SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )
    assert disk.describe_fault(error) == "the disk is full"
    assert disk.describe_fault(ValueError("No space left")) is None


def test_a_line_cut_by_a_crash_takes_no_other_with_it(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.append_metrics({"step": 1})
    with open(tmp_path / "metrics.jsonl", "ab") as stream:
        stream.write('{"step": 2, "text": "ä'.encode()[:-1])
    run_dir.append_metrics({"step": 3})
    assert [row["step"] for row in run_dir.metrics()] == [1, 3]


def test_samples_of_steps_that_are_taken_again_are_forgotten(tmp_path):
    run_dir, samples = RunDir(tmp_path), tmp_path / "samples"
    samples.mkdir()
    for step in (0, 2, 4):
        with open(samples / "answers.jsonl", "a") as stream:
            stream.write(json.dumps({"step": step, "text": "ä"}, ensure_ascii=False) + "\n")
    (samples / "000006-text.jsonl").write_text("{}\n")
    whole = (samples / "answers.jsonl").read_text()
    run_dir.rewind(0, step=4)
    assert (samples / "answers.jsonl").read_text() == "".join(whole.splitlines(True)[:2])
    run_dir.rewind(0)
    assert (samples / "answers.jsonl").read_text() == ""
    assert (samples / "000006-text.jsonl").exists()


def test_resume_without_any_checkpoint_begins_again(train_tiny):
    from ftcli.jobs.train import resume

    run = train_tiny("~eval", "method.r=2", "run.name=again")
    before = manifest.sha256(run / "checkpoints/last/adapter.safetensors")
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").unlink()
    rows = RunDir(run).metrics()
    (run / "metrics.jsonl").unlink()  # killed before the first line; samples come earlier
    (run / "samples").mkdir(exist_ok=True)
    (run / "samples/answers.jsonl").write_text('{"step": 0}\n')
    assert resume(run)["status"] == "finished"
    assert (run / "samples/answers.jsonl").read_text() == ""
    assert manifest.sha256(run / "checkpoints/last/adapter.safetensors") == before
    assert [row["step"] for row in RunDir(run).metrics()] == [row["step"] for row in rows]
