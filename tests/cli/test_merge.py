"""`ftcli merge` says what it wrote, or why it wrote nothing."""

from __future__ import annotations

import json

from ftcli.cli.app import run


def test_the_report_is_a_sentence_or_json(trained_run, tmp_path, capsys):
    assert run(["merge", str(trained_run), "--to", str(tmp_path / "a")]) == 0
    assert "merged into" in capsys.readouterr().out
    assert run(["merge", str(trained_run), "--to", str(tmp_path / "b"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 8 and report["max_difference"] <= report["tolerance"]
    assert report["bytes"] > 20_000_000 and (tmp_path / "b" / "config.json").exists()


def test_a_folder_with_content_and_a_folder_that_is_no_run(trained_run, tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert run(["merge", str(trained_run), "--to", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["merge", str(tmp_path), "--to", str(tmp_path / "new")]) == 2
    assert "is not a run" in capsys.readouterr().err
