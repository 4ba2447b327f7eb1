"""Requests for another host, and without the token, never reach the application."""

from __future__ import annotations

import asyncio
import json

import pytest

from ftcli.core.errors import UserError
from ftcli.serving.api.guards import HostCheck, TokenCheck
from ftcli.serving.api.server import LOCAL_NAMES, open_socket, refuse_open_host

pytest.importorskip("starlette", reason="pip install 'ftcli[serve]'")


def ask(check, *headers: tuple[bytes, bytes]) -> tuple[int, dict]:
    """Status and body of a request through a check; 200 where the application was reached."""
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"{}"})

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": list(headers)}
    asyncio.run(check(app)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("host", [b"127.0.0.1:8000", b"localhost", b"LOCALHOST:1", b"[::1]:8000"])
def test_the_names_of_this_machine_are_answered(host):
    assert ask(lambda app: HostCheck(app, LOCAL_NAMES), (b"host", host))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example:8000")], [(b"host", b"127.0.0.1.evil.example")], [],
        [(b"host", b"localhost"), (b"host", b"evil.example")], [(b"host", b"[::1].evil.example]")],
        [(b"host", b"")],
    ],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(headers):
    status, body = ask(lambda app: HostCheck(app, LOCAL_NAMES), *headers)
    assert status == 403 and body["error"]["param"] == "Host"


def test_only_the_right_token_is_taken():
    def status(*headers: tuple[bytes, bytes]) -> int:
        return ask(lambda app: TokenCheck(app, "s3cret"), *headers)[0]

    assert status((b"authorization", b"Bearer s3cret")) == 200
    for wrong in (b"Bearer s3cre", b"Bearer ", b"s3cret", b"Bearer s3cret2", b"\xff"):
        assert status((b"authorization", wrong)) == 401
    assert status() == 401


def test_other_machines_are_let_in_only_with_a_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        refuse_open_host(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        with pytest.raises(UserError, match="anybody could use the model"):
            refuse_open_host(host, None)
        refuse_open_host(host, "token")
    with pytest.raises(UserError, match="no address"):
        refuse_open_host("example.org", "token")


def test_a_taken_port_is_refused_and_another_is_found():
    with open_socket("127.0.0.1", None) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match="cannot be used"):
            open_socket("127.0.0.1", port)
        with open_socket("127.0.0.1", None) as second:
            assert second.getsockname()[1] > port
