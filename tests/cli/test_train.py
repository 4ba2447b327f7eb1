"""`ftcli train` through the command: what a person sees, and what a mistake leaves behind."""

from __future__ import annotations

import json
import re

import pytest

TINY = (
    "eval=none", "data.limit=64", "method.r=2", "model.dtype=float32", "trainer.precision=fp32",
    "trainer.batch_size=4", "trainer.log_every=2",
)  # fmt: skip


def test_the_screen_shows_the_figures_of_metrics_jsonl(ftcli, work):
    """The loss falls within these steps, so that an average over lines would show."""
    ended = ftcli("train", "qlora_mini", *TINY, "trainer.max_steps=6", "optimizer.lr=5e-3")
    assert ended.status == 0, ended.err
    shown = re.findall(r"^step (\d+)/6  loss (\S+) · lr (\S+)", ended.out, re.MULTILINE)
    lines = (work / "runs/qlora_mini/latest/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert shown == [(str(r["step"]), f"{r['loss']:.4f}", f"{r['lr']:.2e}") for r in rows]


ROWS = "".join(
    json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(9)
)
#: What is refused, and the moment at which it shows: building, tokenising, the model, the start of the loop.
REFUSED = (
    ("data.prompt_template=no_field",),
    ("data=prompt", "data.path=absent.jsonl", "eval=none"),
    ("data=prompt", "data.path=broken.jsonl", "eval=none", "data.on_error=stop"),
    ("model.path=asset:nope",),
    ("model.path=weightless",),
    ("method.target_modules=[no_such_layer]",),
    ("init_from=nowhere",),
    ('stages={a:["method.target_modules=[no_such_layer]"]}',),
)


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0])
def test_a_refused_run_leaves_nothing_and_latest_stays(ftcli, work, words):
    (work / "broken.jsonl").write_text(ROWS + "not json\n")
    (work / "weightless").mkdir()
    run = work / "runs" / "qlora_mini" / "2026-01-02_03-04-05-abcd"
    run.mkdir(parents=True)
    (run.parent / "latest").symlink_to(run.name)
    before = sorted(work.rglob("*"))
    ended = ftcli("train", "qlora_mini", *TINY, "trainer.max_steps=2", *words)
    assert ended.status == 2 and ended.err and "Traceback" not in ended.err
    assert "runs/" not in ended.err
    assert sorted(work.rglob("*")) == before
    assert (run.parent / "latest").resolve() == run


def test_a_refused_first_run_leaves_no_folder_of_runs(ftcli, work):
    ended = ftcli("train", "qlora_mini", *TINY, "method.target_modules=[no_such_layer]")
    assert ended.status == 2 and list(work.iterdir()) == []


def test_a_run_that_fails_after_its_first_step_keeps_its_folder(ftcli, work):
    """A rate that no weight survives: the loss is not finite a step or two later."""
    ended = ftcli("train", "qlora_mini", *TINY, "trainer.max_steps=40", "optimizer.lr=1e30")
    assert ended.status == 1, ended.err
    assert (work / "runs/qlora_mini/latest/events.jsonl").is_file()


@pytest.mark.slow
def test_two_refused_ranks_leave_nothing(ftcli, work):
    ended = ftcli("train", "qlora_mini", *TINY, "method.target_modules=[no_such_layer]", "-p", "2")
    assert ended.status == 2 and "nothing was trained." in ended.err
    assert list(work.iterdir()) == []
