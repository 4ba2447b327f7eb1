"""The `ftcli` command: finds its verbs, runs one, and turns errors into one message.

A verb is a module `ftcli/cli/verbs/<verb>.py` with a function of the same name (an underscore after
it where the name is a Python word) and a `GROUP` for the help page. Nothing lists the verbs; the
help page reads their files, and only the verb that runs is imported.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from ftcli import __version__
from ftcli.cli.verb_loader import VerbGroup, find_verbs
from ftcli.config.display import sanitize_text, show_error
from ftcli.core import errors
from ftcli.core.disk import disk_error

#: Errors of a given path, as opposed to errors of this machine.
_PATH_ERRORS = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EEXIST, errno.ELOOP, errno.EROFS, errno.EINVAL,
)  # fmt: skip


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"ftcli {__version__}")
        raise typer.Exit()


def _set_global_options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Only warnings and results."),
    version: bool = typer.Option(
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Show the version and exit.",
    ),
) -> None:
    """Finetune any torch model by any published method, from one YAML file."""
    if debug:
        os.environ["FTCLI_DEBUG"] = "1"
    if quiet:
        os.environ["FTCLI_QUIET"] = "1"


app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(_set_global_options)


def main() -> NoReturn:
    """Entry point of the process.

    Subprocesses do not import from the working folder, where a file with the name of a library
    would replace it.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; an error is printed as one message. Returns the exit status.

    Raises:
        Exception: any error, where --debug or FTCLI_DEBUG asks for the traceback.
    """
    _install_warning_handler()
    _withhold_dequantizing_note()
    try:
        status = app(args=_move_debug_first(arguments), prog_name="ftcli", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return errors.INTERRUPTED
    except BrokenPipeError:  # `ftcli show job | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - nothing is left to write to
        return errors.OK
    except Exception as error:
        usage = _convert_usage_error(error)
        if os.environ.get("FTCLI_DEBUG") and usage is None:
            raise
        shown = usage or convert_error(error)
        if shown.code == errors.USER:
            from ftcli.cli import command_correction

            shown = command_correction.explain_command_line(arguments, shown)
        show_error(_add_fix(shown, arguments))
        return shown.code
    return status if isinstance(status, int) else errors.OK


def convert_error(error: Exception) -> errors.UserError:
    """Return any exception as a UserError; errors other than the user's keep the name of their type."""
    if isinstance(error, errors.UserError):
        return error
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS and error.filename:
        what = f"{error.filename}: {error.strerror}."
        return errors.UserError(what, fix="check the path and its permissions")
    text = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    if any(kind.__name__ in ("OutOfMemoryError", "MemoryError") for kind in type(error).__mro__):
        fix = "ftcli plan JOB shows what fits; try a smaller trainer.batch_size"
        return errors.UserError(what, fix=fix, code=errors.OUT_OF_MEMORY)
    if from_disk := disk_error(error):
        return from_disk
    fix = "the same command with --debug shows where; please report it"
    return errors.UserError(what, fix=fix, code=errors.FAILED)


def _add_fix(error: errors.UserError, arguments: Sequence[str]) -> errors.UserError:
    """Add a pointer to the schema or the help of the verb to errors without a fix."""
    verb = next((word for word in arguments if word in find_verbs()), "")
    for problem in error.problems if isinstance(error, errors.Problems) else [error]:
        key = re.fullmatch(r"[a-z_]+(\.\w+)*", problem.where or "")
        help_ = f"ftcli {verb} --help".replace("  ", " ")
        problem.fix = problem.fix or (f"see: ftcli schema {key[0]}" if key else f"see: {help_}")
    return error


def _convert_usage_error(error: Exception) -> errors.UserError | None:
    """Return an error of the command-line parser as a UserError; None for any other exception."""
    message = getattr(error, "format_message", None)
    if message is None or not hasattr(error, "exit_code"):
        return None
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "ftcli"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message())
        sys.exit(errors.OK)
    return errors.UserError(message() + _suggest_verb(message()), fix=f"{command} --help")


def _suggest_verb(message: str) -> str:
    from ftcli.config.paths import find_nearest

    wrong = re.match(r"No such command '([^']+)'", message)
    verbs = find_nearest(wrong[1], find_verbs()) if wrong else []
    return f" Closest: {', '.join(verbs)}." if verbs else ""


def _move_debug_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--debug` moved in front, so that it works after the verb too."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    head = [word for word in words[:end] if word != "--debug"]
    return ["--debug"] * (len(head) < end) + head + words[end:]


def _install_warning_handler() -> None:
    logger = logging.getLogger("ftcli")
    if not any(isinstance(h, _WarningHandler) for h in logger.handlers):
        logger.addHandler(_WarningHandler())


def _withhold_dequantizing_note() -> None:
    """Drop a note of transformers at each merge into a quantised base, which ftcli dequantises on purpose."""
    logging.getLogger("transformers.integrations.bitsandbytes").addFilter(_is_worth_showing)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("The modules are dequantized in")


class _WarningHandler(logging.Handler):
    """Prints warnings, one line each, to the present stderr."""

    level = logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        from ftcli.core.console import console

        line = f"note: {sanitize_text(record.getMessage())}"
        console(stderr=True).print(line, style="yellow", markup=False)
