"""The shipped hospital stays are what their script writes, with the properties that it documents."""

from __future__ import annotations

import gzip
import json
import re
import runpy
from collections import Counter
from pathlib import Path

import ftcli

FOLDER = Path(ftcli.__file__).parent / "assets" / "data" / "admissions"
NUMBER = re.compile(r"\d+(?:[.-]\d+)*")


def shipped(split):
    with gzip.open(FOLDER / f"{split}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def test_the_script_writes_the_shipped_rows():
    stream = runpy.run_path(str(FOLDER / "generate.py"))["draw_rows"]()
    for split in ("base", "train", "test"):
        assert all(row == next(stream) for row in shipped(split))


def test_no_prompt_is_in_two_splits():
    prompts = {
        split: {row["prompt"] for row in shipped(split)} for split in ("base", "train", "test")
    }
    assert not prompts["base"] & prompts["train"] and not prompts["test"] & (
        prompts["base"] | prompts["train"]
    )


def test_summaries_keep_every_number_and_rejected_ones_alter_one_or_two():
    for row in shipped("train"):
        source, chosen, rejected = (
            Counter(NUMBER.findall(row[k])) for k in ("prompt", "chosen", "rejected")
        )
        assert set(chosen) <= set(source) and chosen.total() == 6
        assert (chosen - rejected).total() in (1, 2) and len(row["chosen"]) == len(row["rejected"])


def test_the_cohort_and_the_order_of_events():
    generator = runpy.run_path(str(FOLDER / "generate.py"))
    for row in shipped("test"):
        dates = [line.split()[0] for line in row["prompt"].splitlines()]
        turned = dates[0][:2] == "12" and dates[-1][:2] == "01"
        assert turned or dates == sorted(dates)
        assert int(re.search(r"age (\d+)", row["prompt"])[1]) >= generator["ADULT"] == 19
