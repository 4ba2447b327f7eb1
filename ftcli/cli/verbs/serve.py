"""`ftcli serve`: an OpenAI-compatible server of trained models."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

GROUP = "After training"


def serve(
    runs: Annotated[list[str], typer.Argument(help="Run directories; each is one model.")],
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with --token.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="From 8000 on.", min=1, max=65535)] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a key, made up now and shown here.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer, where max_tokens is not given.", min=1, max=100_000)
    ] = 256,
    temperature: Annotated[
        float, typer.Option(help="Where a request gives none; 0 is greedy.", min=0, max=2)
    ] = 0.0,
    batch: Annotated[int, typer.Option(help="Answers written together, at most.", min=1)] = 32,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
) -> None:
    """Serve runs to clients of OpenAI's API, on this machine. Runs with LoRA on one base share it."""
    from ftcli.serving.api.server import import_libraries, open_socket, refuse_open_host

    import_libraries()  # said before the models are loaded, where one is missing
    key = secrets.token_urlsafe(24) if token else None
    refuse_open_host(host, key)
    listener = open_socket(host, port)

    from ftcli.serving.api.app import Defaults
    from ftcli.serving.api.served import open_models
    from ftcli.serving.api.server import Server

    models = open_models(runs, checkpoint)
    server = Server(models, listener, Defaults(max_new_tokens, temperature), batch, key)
    for served in models:
        shared = " (shares its base)" if served.adapter else ""
        print(f"model   {served.name}{shared}")
    who = f"key {key}" if key else "this machine only, no key"
    print(f"serving {server.url}  ({who}; Ctrl-C ends)", flush=True)
    server.serve()
