"""`ftcli chat`: talk to a trained model."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ftcli.serving.chat import Chat

GROUP = "After training"


def chat(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this and leave.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer, in tokens.", min=1, max=100_000)
    ] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy; more is freer.", min=0)] = 0.0,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
    web: Annotated[
        bool, typer.Option("--web", help="A page in the browser, this machine only.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Of --web; from 7860 on.", min=1, max=65535)
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Of --web: a password, made up now and shown here.")
    ] = False,
) -> None:
    """Talk to it with the prompt it was trained on. /reset forgets, /exit leaves.

    Text piped to stdin is one prompt.
    """
    from ftcli.serving.chat import Chat

    if web:
        from ftcli.serving.web import import_gradio, serve

        import_gradio()  # said before the model is loaded, where it is missing
    bot = Chat.open(
        run, checkpoint=checkpoint, max_new_tokens=max_new_tokens, temperature=temperature
    )
    if web:
        serve(bot, port, token=secrets.token_urlsafe(12) if token else None)
        return
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt is not None:
        _answer(bot, prompt)
    else:
        _converse(bot)


def _converse(bot: Chat) -> None:
    while True:
        try:
            line = input("› ").strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line == "/reset":
            bot.reset()
        elif line:
            _answer(bot, line)


def _answer(bot: Chat, text: str) -> None:
    from ftcli.core.escaping import escape_controls

    def write(piece: str) -> None:
        sys.stdout.write(escape_controls(piece))
        sys.stdout.flush()

    bot.say(text, write)
    write("\n")
