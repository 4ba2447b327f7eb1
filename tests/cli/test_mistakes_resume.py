"""Mistake 10 through the command: going on with data that are no longer what they were."""

from __future__ import annotations

import json


def test_10_resume_against_changed_data(ftcli, work):
    rows = [{"prompt": f"say {i}", "completion": f"number {i} it is"} for i in range(40)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (work / "rows.jsonl").write_text("".join(lines))
    trained = ftcli(
        "train", "qlora_mini", "data=prompt", "data.path=rows.jsonl", "eval=none", "method.r=2",
        "trainer.max_steps=2", "trainer.batch_size=2", "trainer.save_every=1",
    )  # fmt: skip
    assert trained.status == 0
    run = (work / "runs" / "qlora_mini" / "latest").resolve()
    (run / "result.json").unlink()  # as after a crash
    (work / "rows.jsonl").write_text("".join(lines[1:]))
    ended = ftcli("resume", "runs/qlora_mini/latest")
    assert ended.status == 2
    what, fix = ended.err.splitlines()
    before = json.loads((run / "checkpoints/last/loader.json").read_text())["fingerprint"][:8]
    assert "data.path=rows.jsonl" in what and "The position cannot be restored." in what
    assert f"of data {before}" in what and "(37 rows)" in what
    assert "ftcli resume runs/qlora_mini/latest --allow data" in fix
    (work / "rows.jsonl").write_text("".join(lines))
    assert ftcli("resume", "runs/qlora_mini/latest").status == 0
