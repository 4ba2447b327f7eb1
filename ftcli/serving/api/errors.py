"""Errors of requests, as objects of OpenAI's API: one message that says what, where and the way out."""

from __future__ import annotations

from typing import Any

from ftcli.core.errors import UserError


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: status of HTTP.
        what: one sentence.
        param: key of the request at fault.
        fix: what to do about it.
        code: OpenAI's name of the error, which clients look at.
    """

    def __init__(
        self, status: int, what: str, param: str | None = None, fix: str = "", code: str = ""
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.param, self.fix, self.code = status, what, param, fix, code

    def body(self) -> dict[str, Any]:
        """Return the JSON object that the client gets."""
        where = f"{self.param}: " if self.param else ""
        fix = f" Fix: {self.fix}." if self.fix else ""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {"type": kind, "param": self.param, "code": self.code or None}
        return {"error": {"message": f"{where}{self.what}{fix}", **fields}}


def convert_error(error: Exception) -> ApiError:
    """Return any exception as an ApiError; of those that are not the client's only the type is told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, error.what, error.where, error.fix or "")
    if any(kind.__name__ in ("OutOfMemoryError", "MemoryError") for kind in type(error).__mro__):
        return ApiError(
            503, "memory ran out.", fix="a shorter prompt, or start with a smaller --batch"
        )
    return ApiError(500, f"{type(error).__name__}.", fix="see what the server printed")
