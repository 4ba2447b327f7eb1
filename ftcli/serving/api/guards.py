"""ASGI middleware in front of every request: the name of this machine, and the token."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from typing import Any

from ftcli.serving.api.errors import ApiError

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(?::\d+)?")  # a name or address, and a port


class HostCheck:
    """Refuses requests for another host.

    A page of a stranger whose name is made to point at this machine (DNS rebinding) still sends that
    name, so it gets no answer.

    Args:
        hosts: names of this machine, without port.
    """

    def __init__(self, app: Any, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] == "http" and _host(scope) not in self.hosts:
            what = f"this server answers to {' and '.join(sorted(self.hosts))} only."
            error = ApiError(403, what, "Host", "use the address that it printed at the start")
            return await _refuse(error, scope, receive, send)
        await self.app(scope, receive, send)


class TokenCheck:
    """Refuses requests without the token, in constant time."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                error = ApiError(
                    401, "the token is missing or wrong.", "Authorization",
                    "api_key=TOKEN, as it was printed at the start", "invalid_api_key",
                )  # fmt: skip
                return await _refuse(error, scope, receive, send)
        await self.app(scope, receive, send)


def _host(scope: Any) -> str:
    """Return the host that a request is for, without its port; empty where it is not one host."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    found = HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
    return found[1] if found else ""


async def _refuse(error: ApiError, scope: Any, receive: Any, send: Any) -> None:
    from starlette.responses import JSONResponse

    await JSONResponse(error.body(), error.status)(scope, receive, send)
