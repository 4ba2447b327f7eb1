"""Text of a stranger where it is read: reports, cards, pages, terminals. Nothing in it acts."""

from __future__ import annotations

import html.parser
import json
import shutil

import pytest

from ftcli.core.run_dir import RunDir
from ftcli.run.card import write_card
from ftcli.run.report import write_report

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
PICTURE = "![x](http://tracker/pixel.png)"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202egnp.exe"


@pytest.fixture
def folder(trained_run, attack):
    copy = attack.folder / "a run"
    shutil.copytree(trained_run, copy)
    return copy


def test_a_report_and_a_card_hold_the_words_and_no_markup(folder):
    sample = {"prompt": f"{SCRIPT} {PICTURE} a|b\nc", "prediction": ESCAPES, "references": [SCRIPT]}
    for file in (folder / "samples").glob("*.jsonl"):
        file.write_text(json.dumps(sample) + "\n")
    data = json.loads((folder / "data.json").read_text())
    data |= {"licence": f"MIT {SCRIPT} {PICTURE}", "revision": f"main {SCRIPT}\n| a | b |"}
    (folder / "data.json").write_text(json.dumps(data))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("asset:llama_mini", "'a/b\n\n  evil: yes'"))
    run = RunDir(folder)
    write_report(run)
    write_card(run)
    for name in ("report.md", "card.md"):
        text = (folder / name).read_text()
        assert "alert(1)" in text and "<script" not in text and "<img" not in text, name
        assert PICTURE not in text and "\x1b" not in text and "\x9b" not in text
        assert not any(line.startswith(("evil:", "| a | b |")) for line in text.splitlines())


class Tags(html.parser.HTMLParser):
    """The tags that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def test_the_report_of_a_reproduction_as_html_has_our_tags_alone():
    from ftcli.reproduce.report import Heading, Table, _html

    parts = [
        Heading(2, SCRIPT),
        Table(("claim", SCRIPT), [[SCRIPT, "holds"], ["a", SCRIPT]]),
        SCRIPT,
    ]
    seen = Tags("".join(_html(part) for part in parts)).seen
    assert seen <= {"h2", "table", "tr", "th", "td", "p"} and "td" in seen


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_preview_sends_nothing_to_the_terminal_but_text(attack, ftcli, words):
    row = {"prompt": f"a{ESCAPES}b", "completion": f"{ESCAPES}c"}
    (attack.folder / f"a{ESCAPES[:5]}.jsonl").write_text((json.dumps(row) + "\n") * 8)
    found = next(attack.folder.glob("*.jsonl"))
    status, seen = ftcli(
        "preview", "qlora_mini", f"data.path='{found}'", "data.format=prompt", "~data.columns",
        "data.validation=null", "data.test=null", *words,
    )  # fmt: skip
    assert status == 0 and "owned" in seen
    assert [c for c in seen if not (c.isprintable() or c in "\n\t")] == []
    assert (not words) or json.loads(seen)


def test_an_error_message_sends_nothing_to_the_terminal_but_text(attack, ftcli):
    status, seen = ftcli("train", f"x{ESCAPES}.yaml")
    assert status == 2 and "owned" in seen
    assert [c for c in seen if not (c.isprintable() or c in "\n\t")] == []
