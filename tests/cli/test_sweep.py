"""`ftcli sweep` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = [
    "data.limit=24", "data.validation=0.2", "trainer.max_steps=2", "trainer.batch_size=2",
    "trainer.log_every=1", "~eval.generation", "model.dtype=float32", "trainer.precision=fp32",
]  # fmt: skip


@pytest.mark.slow
def test_two_trials_side_by_side_and_their_best(ftcli, work):
    ended = ftcli(
        "sweep", "qlora_mini", "optimizer.lr=1e-2,1e-5", *TINY, "method.r=2", "--jobs", "2"
    )
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert sum(" finished  eval.loss " in line for line in lines) == 2
    assert any(line.startswith("best    lr=0.01: eval.loss") for line in lines)
    assert (
        ended.err.count("evaluated only before and after training") == 1
    )  # a note is said once, not a trial
    (best,) = Path("sweeps").glob("qlora_mini/2*/best.yaml")
    assert ftcli("check", str(best), "--json").status == 0
    again = ftcli("sweep", "--resume", str(best.parent), "--json")
    summary = json.loads(again.out)
    assert summary["counts"] == {"finished": 2} and summary["best"]["optimizer.lr"] == "0.01"
    compared = ftcli("compare", *(str(p) for p in sorted(best.parent.glob("[01]-*"))))
    assert compared.status == 0 and "optimizer.lr" in compared.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no job is given"),
        (["qlora_mini"], "nothing is swept"),
        (["qlora_mini", "method.r=2,4", "--prune"], "belong to a search"),
        (["qlora_mini", "optimizer.lr=interval(1e-4,1e-2)"], "--optuna"),
        (["qlora_mini", "method.r=2,4", "--launcher", "slrum"], "ftcli ls launchers"),
        (["qlora_mini", "method.rr=2,4"], "Did you mean method.r?"),
        (["qlora_mini", "--resume", "sweeps"], "goes on as it was started"),
        (["--resume", "."], "is not a sweep"),
    ],
)
def test_mistakes_are_one_message(ftcli, work, words, says):
    ended = ftcli("sweep", *words)
    assert ended.status == 2 and says in ended.err and "Traceback" not in ended.err
    assert not Path("sweeps").exists()
