"""The `ftcli` command: finds its verbs, runs one, and turns errors into one message.

A verb is a module `ftcli/cli/verbs/<verb>.py` with a function of the same name (an underscore after
it where the name is a Python word) and a `GROUP` for the help page. Nothing lists the verbs.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import NoReturn

import typer

from ftcli import __version__, errors
from ftcli.cli import verbs

PANELS = ("Train", "Inspect", "After training", "Environment")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ftcli {__version__}")
        raise typer.Exit()


def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Only warnings and results."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Finetune any torch model by any published method, from one YAML file."""
    if debug:
        os.environ["FTCLI_DEBUG"] = "1"
    if quiet:
        os.environ["FTCLI_QUIET"] = "1"


def build_app() -> typer.Typer:
    """A Typer app with every verb found in `ftcli.cli.verbs`, in the order of the help panels."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    modules = [
        (info.name, importlib.import_module(f"ftcli.cli.verbs.{info.name}"))
        for info in pkgutil.iter_modules(verbs.__path__)
    ]
    modules.sort(key=lambda item: PANELS.index(item[1].GROUP))
    for name, module in modules:
        verb = name.rstrip("_")
        app.command(verb, rich_help_panel=module.GROUP)(getattr(module, name))
    return app


app = build_app()


def main() -> NoReturn:
    """Entry point: run a verb; a user's mistake ends in one panel and its exit status."""
    try:
        status = app(standalone_mode=False)
    except errors.UserError as error:
        if os.environ.get("FTCLI_DEBUG"):
            raise
        show_error(error)
        sys.exit(error.code)
    except typer.Abort:
        sys.exit(errors.INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(errors.INTERRUPTED)
    except Exception as error:
        if os.environ.get("FTCLI_DEBUG"):
            raise
        _show_unexpected(error)
    sys.exit(status if isinstance(status, int) else errors.OK)


def show_error(error: errors.UserError) -> None:
    """Print one panel: what is wrong, where, and what to do."""
    from rich.panel import Panel
    from rich.text import Text

    from ftcli.cli.console import console

    problems = error.problems if isinstance(error, errors.Problems) else [error]
    text = Text()
    for index, problem in enumerate(problems):
        text.append("\n\n" if index else "")
        if problem.where:
            text.append(f"{problem.where}  ", style="bold")
        text.append(problem.what)
        if problem.fix:
            text.append(f"\n→ {problem.fix}", style="green")
    title = "error" if len(problems) == 1 else f"{len(problems)} errors"
    out = console(stderr=True)
    out.print(Panel(text, title=title, title_align="left", border_style="red")
              if out.is_terminal else text)


def _show_unexpected(error: Exception) -> NoReturn:
    """Our own mistakes: usage errors of the parser, or a bug with the way to report it."""
    from click import ClickException

    if isinstance(error, ClickException):
        error.show()
        sys.exit(error.exit_code)
    show_error(
        errors.UserError(
            f"{type(error).__name__}: {error}",
            fix="run the same command with --debug after 'ftcli' to see the traceback",
        )
    )
    sys.exit(errors.FAILED)
