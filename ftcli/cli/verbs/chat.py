"""`ftcli chat`: talk to a trained model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

GROUP = "After training"


def chat(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this and leave.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy; more is freer.", min=0)] = 0.0,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
) -> None:
    """Talk to it with the prompt it was trained on. /reset forgets, /exit leaves.

    Lines piped to stdin are answered one by one.
    """
    from ftcli.serving.chat import Chat

    bot = Chat.open(
        run, checkpoint=checkpoint, max_new_tokens=max_new_tokens, temperature=temperature
    )
    if prompt is not None:
        _answer(bot, prompt)
        return
    asking = sys.stdin.isatty()
    for line in _lines(asking):
        if line == "/exit":
            break
        if line == "/reset":
            bot.reset()
        elif line:
            _answer(bot, line)
            if not asking:
                bot.reset()


def _lines(asking: bool):  # type: ignore[no-untyped-def]
    while True:
        try:
            yield input("› " if asking else "").strip()
        except EOFError:
            return


def _answer(bot, text: str) -> None:  # type: ignore[no-untyped-def]
    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    bot.say(text, write)
    write("\n")
