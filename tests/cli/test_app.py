"""The command's frame: it starts light and turns whatever goes wrong into one message."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.cli import verb_loader
from ftcli.config.display import show_error
from ftcli.core import errors
from tests.cpu_time import compare_cpu_time

HEAVY = ("torch", "transformers", "datasets", "peft", "hydra", "pydantic")


def in_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_help_page_imports_nothing_heavy_and_no_verb():
    code = (
        "import sys; from ftcli.cli.app import run; run(['--help']); "
        f"print([m for m in sys.modules if m.split('.')[0] in {HEAVY} "
        "or m.startswith('ftcli.cli.verbs.')])"
    )
    assert in_process(code).splitlines()[-1] == "[]"


def imported(*lines: tuple[str, ...]) -> list[set[str]]:
    """Top-level packages that are loaded after each command line, all run in one fresh process."""
    code = (
        "import contextlib, io, json, sys\n"
        "from ftcli.cli.app import run\n"
        f"for words in {lines!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        run(words)\n"
        "    print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))\n"
    )
    return [set(json.loads(line)) for line in in_process(code).splitlines()]


def test_a_verb_imports_what_it_needs_and_no_more():
    """What reads configurations needs no torch; what looks ahead needs no data sets and no pictures."""
    small = ("data.limit=8", "data.validation=null", "data.test=null", "eval=none")
    reading, mistaken, planned, checked = imported(
        ("show", "qlora_mini"),
        ("train", "qlora_mini", "method=nope"),
        ("plan", "qlora_mini", *small),
        (
            "check",
            "qlora_mini",
            "method=lora",
            "model.quantization=none",
            *small,
        ),  # the proof loads it
    )
    heavy = {"torch", "transformers", "datasets", "peft", "numpy", "matplotlib", "accelerate"}
    assert "hydra" in reading and reading & heavy == set() and mistaken & heavy == set()
    unused = {
        "datasets", "matplotlib", "pyarrow", "pandas", "bitsandbytes", "sacrebleu", "rouge_score",
        "diffusers", "tensorboard", "wandb", "mlflow", "gradio", "optuna", "sklearn", "trl", "flwr",
    }  # fmt: skip
    assert "torch" in planned and planned & unused == set()
    assert checked & unused <= {"bitsandbytes"}  # the proof of packing loads the 4-bit model


def test_the_help_page_costs_little_more_than_its_libraries():
    """About twice the time of importing typer and rich: a heavy import would be 20 times."""
    libraries = "import typer, rich.console, rich.table, rich.panel"
    assert compare_cpu_time(["-m", "ftcli.cli", "--help"], ["-c", libraries]) < 4


def test_the_help_page_fits_a_screen_and_has_every_verb_in_its_panel(ftcli):
    page = ftcli("--help")
    assert page.status == errors.OK
    assert len(page.out.splitlines()) <= 48
    for name in verb_loader.find_verbs():
        assert f" {name} " in page.out


@pytest.mark.parametrize("name", verb_loader.find_verbs())
def test_a_verb_is_a_function_with_a_panel_and_a_sentence(name, ftcli):
    path = verb_loader.find_verbs()[name]
    tree = ast.parse(path.read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    verb = next(f for f in functions if f.name == path.stem)
    assert ast.get_docstring(verb)
    assert verb_loader.build_stub(name).rich_help_panel in verb_loader.PANELS
    page = ftcli(name, "--help")
    assert page.status == errors.OK and f"ftcli {name}" in page.out


def test_an_error_shows_where_what_and_fix(capsys):
    show_error(errors.UserError("no such method", where="x.yaml:3", fix="ftcli ls methods"))
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("x.yaml:3", "no such method", "ftcli ls methods"))


def test_the_bad_line_of_a_file_is_shown(work, capsys):
    (work / "x.yaml").write_text("a: 1\nb: wrong\n")
    show_error(errors.UserError("b is wrong.", where="x.yaml:2"))
    assert capsys.readouterr().err == "x.yaml:2  b is wrong.\n    b: wrong\n"


def test_a_long_message_is_not_wrapped_where_no_terminal_reads(capsys):
    show_error(errors.UserError("word " * 60, fix="fix"))
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_several_problems_are_raised_together_and_one_as_itself(capsys):
    first, second = errors.UserError("first"), errors.UserError("second")
    errors.Problems.raise_if_any([])
    with pytest.raises(errors.UserError) as single:
        errors.Problems.raise_if_any([first])
    assert single.value is first
    with pytest.raises(errors.Problems) as caught:
        errors.Problems.raise_if_any([first, second])
    assert caught.value.problems == [first, second]
    show_error(caught.value)
    assert capsys.readouterr().err == "first\nsecond\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "No such command 'trian'. Closest: train."),
        (["show"], "no job is given"),
        (["show", "x", "--nonsense"], "No such option: --nonsense"),
        (["init", "--model"], "requires an argument"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_two(ftcli, words, says):
    ended = ftcli(*words)
    assert ended.status == errors.USER and ended.out == ""
    assert says in ended.err and len(ended.err.splitlines()) == 2


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (errors.UserError("fix me", code=errors.USER), errors.USER, "fix me"),
        (errors.UserError("too big", code=errors.OUT_OF_MEMORY), errors.OUT_OF_MEMORY, "too big"),
        (OutOfMemoryError("CUDA out of memory\nmore"), errors.OUT_OF_MEMORY, "ftcli plan"),
        (RuntimeError("a bug\nwith details"), errors.FAILED, "RuntimeError: a bug"),
        (KeyboardInterrupt(), errors.INTERRUPTED, ""),
    ],
)
def test_exit_statuses(ftcli, monkeypatch, raised, status, says):
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("ftcli.config.listing.list_kinds", fail)
    ended = ftcli("ls")
    assert ended.status == status
    assert says in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize("words", [("--debug", "ls", "x"), ("ls", "x", "--debug")])
def test_the_traceback_comes_only_with_debug(ftcli, monkeypatch, words):
    assert ftcli("ls", "x").status == errors.USER
    monkeypatch.setenv("FTCLI_DEBUG", "")  # put back after the test
    with pytest.raises(errors.UserError):
        ftcli(*words)


def test_debug_by_the_environment(ftcli, monkeypatch):
    monkeypatch.setenv("FTCLI_DEBUG", "1")
    with pytest.raises(errors.UserError):
        ftcli("ls", "x")


def test_the_status_of_a_verb_is_that_of_the_process(tmp_path):
    command = Path(sys.executable).parent / "ftcli"
    ended = subprocess.run([command, "show", "nowhere.yaml"], capture_output=True, text=True)
    assert ended.returncode == errors.USER
    assert ended.stderr.startswith("nowhere.yaml: no such file or job.")
    closed = subprocess.run(
        f"'{command}' schema | head -1", shell=True, capture_output=True, text=True
    )
    assert closed.stdout == "{\n" and closed.stderr == ""


def completed(monkeypatch: pytest.MonkeyPatch, line: str, *, words: list[str] | None = None):
    """What bash would be offered at the end of a line."""
    parts = words or line.split(" ")
    env = {
        **os.environ, "_FTCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(parts), "COMP_CWORD": str(len(parts) - 1),
    }  # fmt: skip
    command = Path(sys.executable).parent / "ftcli"
    out = subprocess.run([command], env=env, capture_output=True, text=True)
    return out.stdout.split()


def test_completion_of_verbs_jobs_groups_options_keys_and_values(work, monkeypatch):
    (work / "mine.yaml").write_text("seed: 1\n")
    assert {"show", "schema"} <= set(completed(monkeypatch, "ftcli s"))
    assert completed(monkeypatch, "ftcli show qlora_l") == ["qlora_llama"]
    assert completed(monkeypatch, "ftcli show mi") == ["mine.yaml"]
    job = "ftcli show qlora_mini "
    assert "method=lora" in completed(monkeypatch, f"{job}method=l")
    assert completed(monkeypatch, f"{job}optimizer.weight_d") == ["optimizer.weight_decay="]
    values = completed(monkeypatch, f"{job}data.train_on=")
    assert values == ["data.train_on=assistant", "data.train_on=all"]
    assert completed(monkeypatch, f"{job}trainer.compile=t") == ["trainer.compile=true"]
    split = ["ftcli", "show", "qlora_mini", "method", "=", "lor"]  # as bash splits it
    assert completed(monkeypatch, "", words=split) == ["lora", "lora_ga"]
