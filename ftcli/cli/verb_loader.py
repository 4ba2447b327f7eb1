"""Find the verbs by their files; a verb is imported only when it runs."""

from __future__ import annotations

import ast
import importlib
import re
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ParameterInfo

PANELS = ("Train", "Inspect", "After training", "Environment")
_FOLDER = Path(__file__).parent / "verbs"


class VerbGroup(TyperGroup):
    """A click group whose commands are the modules of `ftcli.cli.verbs`."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs, sorted by help panel and name."""
        stubs = [build_stub(name) for name in find_verbs()]
        stubs.sort(key=lambda s: (PANELS.index(str(s.rich_help_panel)), str(s.name)))
        return [str(stub.name) for stub in stubs]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a verb; for the help page only name and description."""
        if cmd_name not in find_verbs():
            return None
        return build_stub(cmd_name) if self._listing else load_verb(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Draw the help page without importing a verb."""
        self._listing = True
        for option in self.params:  # one line each: the page must fit a screen
            if option.name == "show_completion":
                option.hidden = True  # type: ignore[attr-defined]
            elif option.name == "install_completion":
                option.help = "Install completion for this shell."  # type: ignore[attr-defined]
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete names of verbs without importing them."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False


@cache
def find_verbs() -> dict[str, Path]:
    """Return verb -> file."""
    files = sorted(_FOLDER.glob("*.py"))
    return {file.stem.rstrip("_"): file for file in files if not file.stem.startswith("_")}


@cache
def build_stub(name: str) -> TyperCommand:
    """Return a command with name, panel and first sentence of a verb, read from its file."""
    tree = ast.parse(find_verbs()[name].read_text(encoding="utf-8"))
    panel, doc = PANELS[-1], ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GROUP":
            panel = ast.literal_eval(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name.rstrip("_") == name:
            doc = ast.get_docstring(node) or ""
    return TyperCommand(name, help=_first_sentence(doc), rich_help_panel=panel)


def _first_sentence(doc: str) -> str:
    """Return the first sentence, shortened at a comma to fit a line of the help page."""
    sentence = re.split(r"[.;:] |\.$", doc.split("\n\n")[0].replace("\n", " "))[0]
    while len(sentence) > 64 and "," in sentence:
        sentence = sentence.rpartition(",")[0]
    return f"{sentence}." if sentence else ""


@cache
def load_verb(name: str) -> Any:
    """Return the click command of a verb; a verb with subcommands is a Typer called `app`."""
    module = importlib.import_module(f"ftcli.cli.verbs.{find_verbs()[name].stem}")
    group = getattr(module, "app", None)
    if isinstance(group, typer.Typer):
        for inner in group.registered_commands:
            assert inner.callback is not None
            inner.callback = _add_completion(inner.callback)
        return typer.main.get_command(group)
    function = getattr(module, find_verbs()[name].stem)
    alone = typer.Typer(
        add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    alone.command(name)(_add_completion(function))
    return typer.main.get_command(alone)


def _add_completion(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add completion of jobs, overrides and runs by the names of the arguments; returns the function."""
    from ftcli.cli.completion import COMPLETERS

    hints = typing.get_type_hints(function, include_extras=True)
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, ParameterInfo) and extra.autocompletion is None:
                extra.autocompletion = COMPLETERS.get(name)
    function.__annotations__ = hints
    return function
