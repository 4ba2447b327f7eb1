"""`ftcli ls`: what there is, read from the files' first lines."""

from __future__ import annotations

import json

import pytest

from ftcli.config import paths


@pytest.mark.parametrize("kind", ["jobs", *map(paths.pluralize_group, paths.list_groups())])
def test_every_packaged_file_says_what_it_is(ftcli, kind):
    if kind == "runs":
        return
    entries = json.loads(ftcli("ls", kind, "--json").out)
    assert entries and all(entry["about"] for entry in entries)


def test_groups_in_the_singular_and_files_of_the_user(ftcli, work, tmp_path):
    (work / "configs" / "method").mkdir(parents=True)
    (work / "configs" / "method" / "mine.yaml").write_text("# My own\n_target_: x\n")
    (tmp_path / "user" / "my_job.yaml").write_text("# My job\n")
    assert ftcli("ls", "method").out == ftcli("ls", "methods").out
    entry = [line.split() for line in ftcli("ls", "methods").out.splitlines()]
    assert ["mine", "My", "own"] in entry
    assert "my_job" in ftcli("ls", "jobs").out


def test_runs_with_how_they_ended_the_newest_first(ftcli, work):
    for stamp, result in (("2026-01-01_a", None), ("2026-01-02_b", {"eval.bleu": 41.25})):
        folder = work / "runs" / "x" / stamp
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 1\n")
        if result:
            text = json.dumps({"status": "finished", "metrics": result})
            (folder / "result.json").write_text(text)
    (work / "runs" / "x" / "latest").symlink_to("2026-01-02_b")
    entries = json.loads(ftcli("ls", "runs", "--json").out)
    assert [(e["name"], e["about"]) for e in entries] == [
        ("runs/x/2026-01-02_b", "finished, bleu 41.25"), ("runs/x/2026-01-01_a", "unfinished"),
    ]  # fmt: skip


def test_without_a_kind_it_counts_and_a_wrong_kind_names_the_nearest(ftcli):
    counts = json.loads(ftcli("ls", "--json").out)
    assert counts["methods"] == len(paths.list_options("method")) and counts["runs"] == 0
    assert "ftcli ls methods" in ftcli("ls").out
    wrong = ftcli("ls", "metods")
    assert wrong.status == 2 and "Did you mean methods?" in wrong.err
