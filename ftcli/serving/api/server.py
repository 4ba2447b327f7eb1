"""The server: its address, who may use it, and its start and end."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_address
from typing import Any

from ftcli.core.errors import UserError, missing_package
from ftcli.serving.api.app import Api, Defaults
from ftcli.serving.api.engine import Engine
from ftcli.serving.api.errors import ApiError, convert_error
from ftcli.serving.api.guards import HostCheck, TokenCheck
from ftcli.serving.api.served import Served
from ftcli.serving.limits import MAX_BODY_BYTES, BodyLimit

LOOPBACK = "127.0.0.1"
#: Names of this machine in requests to a server on the loopback interface.
LOCAL_NAMES = (LOOPBACK, "localhost", "[::1]")
FIRST_PORT, PORTS = 8000, 100
TOO_LARGE = json.dumps(
    ApiError(413, f"a body has at most {MAX_BODY_BYTES:,} bytes.", fix="a shorter prompt").body()
).encode()
SHUTDOWN_SECONDS = 3  # that answers under way get when the server ends


def import_libraries() -> None:
    """Import what the server needs.

    Raises:
        UserError: a package is missing.
    """
    try:
        import starlette
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise missing_package(str(error.name), "serve", "ftcli serve") from error
    del starlette


def refuse_open_host(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a token.

    Raises:
        UserError: the address is none, or other machines reach it and no token is asked for.
    """
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError as error:
        raise UserError(f"{host} is no address.", "--host", f"--host {LOOPBACK}") from error
    if not local and token is None:
        raise UserError(
            f"other machines reach {host}, and anybody could use the model.", "--host",
            f"--host {host} --token; or a tunnel: ssh -L 8000:{LOOPBACK}:8000 MACHINE",
        )  # fmt: skip


def open_socket(host: str, port: int | None) -> socket.socket:
    """Return a listening socket; None takes the first free port from 8000 on.

    Raises:
        UserError: the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason: OSError | None = None
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            reason = error
    where = "--port" if port is not None else "--host"
    raise UserError(f"{host}:{port or FIRST_PORT} cannot be used: {reason}", where, "another one")


class Server:
    """Serves models until it is stopped.

    Args:
        models: the models, see `open_models`.
        listener: see `open_socket`.
        defaults: what holds for requests that do not say it.
        max_batch: rows that are generated together at most.
        token: password that requests carry; None admits every user of this machine.
    """

    def __init__(
        self, models: Sequence[Served], listener: socket.socket, defaults: Defaults | None = None,
        max_batch: int = 32, token: str | None = None,
    ) -> None:  # fmt: skip
        import uvicorn

        self.listener = listener
        self.engine = Engine(models, max_batch)
        local = ip_address(listener.getsockname()[0]).is_loopback
        app = build_app(Api(self.engine, models, defaults or Defaults()), token, local)
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address that clients take as `base_url`."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    def serve(self) -> None:
        """Answer requests until the process is interrupted or `stop` is called."""
        self.engine.start()
        try:
            with closing(self.listener):
                self._server.run(sockets=[self.listener])
        finally:
            self.engine.close()

    def stop(self) -> None:
        """End `serve`, from another thread."""
        self._server.should_exit = True


def build_app(api: Api, token: str | None, local: bool) -> Any:
    """Return the ASGI application with its checks, the outermost first.

    Args:
        local: it listens on the loopback interface, and answers to no other name.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Route

    checks = [Middleware(HostCheck, hosts=LOCAL_NAMES)] if local else []
    checks += [Middleware(TokenCheck, token=token)] if token else []
    checks += [Middleware(BodyLimit, largest=MAX_BODY_BYTES, answer=TOO_LARGE)]
    return Starlette(
        routes=[
            Route("/v1/models", api.list_models),
            Route("/v1/models/{name:path}", api.describe_model),
            Route("/v1/chat/completions", api.complete_chat, methods=["POST"]),
            Route("/v1/completions", api.complete_text, methods=["POST"]),
        ],
        middleware=checks,
        exception_handlers={
            ApiError: _answer_error, HTTPException: _answer_error, Exception: _answer_error,
        },
    )  # fmt: skip


async def _answer_error(request: Any, error: Exception) -> Any:
    from starlette.responses import JSONResponse

    status = getattr(error, "status_code", None)
    if status is not None:  # of the router
        what = f"{request.method} {request.url.path} is not served here."
        error = ApiError(status, what, None, "see docs/serving.md for the paths")
    shown = convert_error(error)
    if shown.status >= 500:
        logging.getLogger("ftcli.serving").error("a request failed", exc_info=error)
    return JSONResponse(shown.body(), shown.status)
