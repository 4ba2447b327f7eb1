"""Layouts through the command: what is left out, not used or derived is said where users look."""

from __future__ import annotations

import json

import pytest

SMALL = ("qlora_mini", "model=llama_mini", "method=lora", "eval=none", "data.validation=null")
GOOD = {"prompt": "Name a river.", "completion": "The Danube.", "label": True}
PAIR = {
    "chosen": "\n\nHuman: Say Oslo\n\nAssistant: Oslo",
    "rejected": "\n\nHuman: Say Oslo\n\nAssistant: no way",
}


@pytest.fixture
def rows(work):
    def write(*rows):
        (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "data.path=rows.jsonl"

    return write


def flat(text):
    return " ".join(text.split())


def test_check_counts_bad_answers_and_refuses_a_file_of_nothing_else(ftcli, rows):
    bad = {**GOOD, "completion": "Sahara.", "label": False}
    done = ftcli("check", *SMALL, "data=prompt", rows(GOOD, bad, GOOD))
    assert done.status == 0 and "1 left out (1 not to learn)" in flat(done.out)
    shown = ftcli("preview", *SMALL, "data=prompt", "data.path=rows.jsonl")
    assert "Danube" in shown.out and "Sahara" not in shown.out and "not to learn" in flat(shown.err)
    wrong = ftcli("check", *SMALL, "data=prompt", rows(bad, bad))
    assert wrong.status == 2 and "2 left out (2 not to learn)" in flat(wrong.out)
    assert "data.columns.label=null" in flat(wrong.out)
    kept = ftcli("check", *SMALL, "data=prompt", "data.path=rows.jsonl", "data.columns.label=null")
    assert kept.status == 0


def test_check_names_what_is_not_used(ftcli, rows):
    row = {"prompt": "Where?", "completion": "There.", "context": "Oslo.", "source": "x"}
    done = ftcli("check", *SMALL, "data=prompt", rows(row))
    assert done.status == 0 and "not used: context, source" in flat(done.out)
    assert "column 'context' (in 1 of the first 1 rows) is not used" in flat(done.out)


def test_dolly_by_the_advice_keeps_its_context(ftcli, rows):
    row = {"instruction": "Where is Oslo?", "context": "Oslo is a city.", "response": "There."}
    wrong = ftcli("check", *SMALL, "data=prompt", "data.format=auto", rows(row))
    advice = flat(wrong.out).partition("try: ")[2].split(" ")[:3]
    assert wrong.status == 2 and advice[0] == "data.format=instruction"
    shown = ftcli("preview", *SMALL, "data=prompt", "data.path=rows.jsonl", *advice)
    assert shown.status == 0 and shown.out.count("Oslo is a city.") == 1


def test_dpo_needs_no_word_of_pairs_and_refuses_the_contrary(ftcli, rows):
    job = (*SMALL, "data=preference", "objective=dpo", rows(PAIR, PAIR))
    assert "pairs: true" in ftcli("show", *job).out
    shown = ftcli("preview", *job, "-n", "1")
    assert shown.status == 0 and shown.out.count("⟦") == 3  # the legend's and both answers'
    assert shown.out.count("Say Oslo") == 2 and "⟦no way" in shown.out
    wrong = ftcli("check", *job, "data.pairs=false")
    assert wrong.status == 2 and "compares two answers" in wrong.err
    assert "pairs: true" not in ftcli("show", *SMALL, "data=preference", "data.path=x.jsonl").out
