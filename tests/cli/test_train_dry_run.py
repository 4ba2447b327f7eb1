"""`ftcli train --dry-run`: a real step on the longest rows, and nothing left behind."""

from __future__ import annotations

import re

import pytest
import torch

from ftcli.config import compose
from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import FAILED, OUT_OF_MEMORY
from ftcli.jobs.dry_run import find_longest_rows
from ftcli.models.causal_lm import CausalLMSource as Source
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.run.build import build_run

SMALL = (
    "data.limit=64", "data.validation=0.1", "trainer.max_steps=200", "method.r=4",
    "trainer.batch_size=4", "eval.generation.limit=2", "eval.generation.max_new_tokens=4",
    "~eval.slots",
)  # fmt: skip


def small():
    known = compose("qlora_mini").config["eval"]
    return [word for word in SMALL if not word.startswith("~") or word[6:] in known]


def test_it_says_what_a_step_takes_and_leaves_nothing(ftcli, work):
    ended = ftcli("train", "qlora_mini", *small(), "--dry-run")
    assert ended.status == 0
    match = re.search(r"\((\d+) rows, ([\d,]+) tokens.*takes ([\d.]+) s and [\d.,]+ .B", ended.out)
    assert match and match[1] == "4" and float(match[3]) > 0
    assert "200 steps take about" in " ".join(ended.out.split())
    run = build_run(compose("qlora_mini", small()).config)
    run.load_model()
    lengths = run.build_loader().prepared.lengths
    assert int(match[2].replace(",", "")) == sum(sorted(lengths)[-4:])
    assert not list(work.iterdir())


def test_no_batch_of_any_epoch_is_longer():
    run = build_run(
        compose("qlora_mini", [*small(), "trainer.gradient_accumulation_steps=3"]).config
    )
    run.load_model()
    loader = run.build_loader()
    rows = find_longest_rows(run, loader)
    total = [int(loader.prepared.lengths[part].sum()) for part in rows]
    assert [len(part) for part in rows] == [4, 4, 4] and total == sorted(total)[::-1]
    most = max(
        int(loader.prepared.lengths[b].sum())
        for e in range(5)
        for b in loader.list_batch_indices(e)
    )
    assert total[0] >= most


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), OUT_OF_MEMORY,
         ["in step 1, micro-batch of 4 rows", "train.jsonl.gz:", "trainer.batch_size=2"]),
        (None, FAILED, ["the loss was nan at step 1", "train.jsonl.gz:"]),
    ],
)  # fmt: skip
def test_what_training_would_fail_of_ends_it_in_one_message(
    error, code, words, ftcli, work, monkeypatch
):
    original = NextTokenPrediction.__call__

    def fails(self, model, batch):
        if error is not None:
            raise error
        losses = original(self, model, batch)
        losses.values = losses.values * float("nan")
        return losses

    monkeypatch.setattr(
        Source, "select_batch_layout", lambda *_: BatchLayout("flat")
    )  # it has the same objective
    monkeypatch.setattr(NextTokenPrediction, "__call__", fails)
    ended = ftcli("train", "qlora_mini", *small(), "--dry-run")
    text = " ".join(ended.err.split())
    assert ended.status == code and all(word in text for word in words), text
    assert "Traceback" not in ended.err and not list(work.iterdir())
