"""Ways out that propose a setting are words that the command line takes, with keys that exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import ftcli
from ftcli.config import paths
from ftcli.config.schema import build_job_schema

PACKAGE = Path(ftcli.__file__).parent
HOLE = "1"  # stands for what a message fills in
QUOTED = re.compile(r"\"([a-z_]+(?:\.\w+)*='[^']*')\"")
PINNED = re.compile(r"pip install \S+==\S+")  # a command, whose `==` sets a version
WORD = re.compile(r"(?<![\w./'-])~?[a-z_]+(?:[./]\w+)*=(?:\{[^}]*\}|\[[^\]]*\]|[^\s,;)\]])*")


def fixes() -> Iterator[tuple[str, str]]:
    """File:line and text of every `fix` in the package, holes filled."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            named = [k.value for k in node.keywords if k.arg == "fix"]
            error = isinstance(node.func, ast.Name) and node.func.id == "UserError"
            given = [*named, *(node.args[2:3] if error else [])]
            for value in given:
                for part in _texts(value):
                    yield f"{file.relative_to(PACKAGE)}:{node.lineno}", part


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else HOLE for p in node.values)
        yield "".join(map(str, parts))
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield "".join(next(_texts(side), HOLE) for side in (node.left, node.right))


def words(text: str) -> list[str]:
    """The settings in a text: words for a shell, in quotes or not."""
    text = PINNED.sub("", text)
    return [f'"{word}"' for word in QUOTED.findall(text)] + WORD.findall(QUOTED.sub("", text))


SETTINGS = sorted({(word, where) for where, text in fixes() for word in words(text)})


@cache
def keys() -> dict[str, set[str] | None]:
    """Group -> its keys; None where any is taken."""
    found: dict[str, set[str] | None] = {}
    for name, shape in build_job_schema()["properties"].items():
        properties = shape.get("properties")
        closed = shape.get("additionalProperties") is False and properties
        found[name] = set(properties) if closed else None
    return found


def test_there_are_many():
    assert len(SETTINGS) > 100


@pytest.mark.parametrize(("word", "where"), SETTINGS)
def test_a_proposed_setting_is_an_override_with_a_key_that_exists(word, where):
    parts = shlex.split(word)
    assert len(parts) == 1, f"{where}: a shell makes {len(parts)} words of {word}"
    parsed = OverridesParser.create().parse_override(parts[0])
    assert not parsed.is_sweep_override() or "sweep" in where
    parsed.value()
    group, _, key = parsed.key_or_group.partition(".")
    if HOLE in group or group in ("hydra", "tap", "key", "use_cache"):
        return
    assert group in keys() or group in paths.list_groups(), f"{where}: there is no {group}"
    known = keys().get(group)
    if key and known and HOLE not in key:
        assert key.split(".")[0] in known, f"{where}: {group} has no {key}"
