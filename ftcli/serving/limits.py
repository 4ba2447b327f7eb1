"""Limits of the web page: a password, and a bound on the bytes of a request."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

MAX_BODY_BYTES = 1 << 20  # bytes of a request's body
USER = "ftcli"  # user name of the login page, where a token is set


def make_login_check(token: str) -> Callable[[str, str], bool]:
    """Return a check of user and password, in constant time."""

    def right(user: str, password: str) -> bool:
        same = hmac.compare_digest(password.encode(), token.encode())
        return hmac.compare_digest(user.encode(), USER.encode()) and same

    return right


class BodyLimit:
    """ASGI middleware that answers requests with a body above `largest` bytes with status 413.

    Received bytes are counted as well, since the announced length may be wrong.

    Args:
        largest: bytes of a body.
        answer: what is sent with the status, as JSON or as text.
    """

    def __init__(self, app: Any, largest: int, answer: bytes = b"too large") -> None:
        self.app, self.largest, self.answer = app, largest, answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        lengths = [v for k, v in scope["headers"] if k == b"content-length"]
        if any(not v.isdigit() or int(v) > self.largest for v in lengths):
            return await _refuse_body(send, self.answer)
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.largest:  # the rest is never read
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, counted, send)


async def _refuse_body(send: Any, answer: bytes) -> None:
    kind = b"application/json" if answer.startswith(b"{") else b"text/plain"
    headers = [(b"content-type", kind), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
