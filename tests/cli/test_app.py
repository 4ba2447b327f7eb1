"""The command's frame: it starts light and turns a user's mistake into one message."""

import subprocess
import sys

import pytest

from ftcli import errors
from ftcli.cli import app


def test_importing_the_command_imports_nothing_heavy():
    code = (
        "import sys, ftcli.cli.app; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'peft') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_error_shows_where_what_and_fix(capsys):
    app.show_error(errors.UserError("no such method", where="my.yaml:3", fix="ftcli ls methods"))
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("my.yaml:3", "no such method", "ftcli ls methods"))


def test_several_problems_are_raised_together_and_one_as_itself():
    one, two = errors.UserError("first"), errors.UserError("second")
    errors.Problems.raise_if_any([])
    with pytest.raises(errors.UserError) as single:
        errors.Problems.raise_if_any([one])
    assert single.value is one
    with pytest.raises(errors.Problems) as several:
        errors.Problems.raise_if_any([one, two])
    assert several.value.problems == [one, two]
