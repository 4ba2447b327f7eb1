"""`ftcli chat` answers one prompt, what is piped in, or line after line."""

from __future__ import annotations

import io
import sys

import pytest

from ftcli.cli.app import run

PROMPT = "name[The Mill], food[French]"
FEW = ["--max-new-tokens", "12"]


@pytest.fixture
def terminal(monkeypatch):
    """Makes stdin look like a keyboard that types these lines."""

    def types(*lines: str) -> None:
        keyboard = io.StringIO("".join(f"{line}\n" for line in lines))
        keyboard.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", keyboard)

    return types


def test_a_prompt_and_the_same_prompt_through_a_pipe(trained_run, capsys, monkeypatch):
    assert run(["chat", str(trained_run), "--prompt", PROMPT, *FEW]) == 0
    answer = capsys.readouterr().out
    assert len(answer.split()) >= 3 and "name[" not in answer
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    assert run(["chat", str(trained_run), *FEW]) == 0
    assert capsys.readouterr().out == answer


def test_a_conversation_ends_with_exit_or_the_end_of_input(trained_run, capsys, terminal):
    terminal(PROMPT, "/reset", "", "/exit", "never read")
    assert run(["chat", str(trained_run), *FEW]) == 0
    first = capsys.readouterr().out
    terminal(PROMPT)
    assert run(["chat", str(trained_run), *FEW]) == 0
    assert first.strip("› \n") == capsys.readouterr().out.strip("› \n") != ""


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert run(["chat", str(tmp_path), "--prompt", "x"]) == 2
    assert "is not a run" in capsys.readouterr().err
