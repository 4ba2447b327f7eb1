"""The page: this machine only, a password where one is asked for, and bounded requests."""

from __future__ import annotations

import asyncio
import types

import pytest

from ftcli.core.errors import UserError
from ftcli.serving import limits, web


class Page:
    """Stands for Gradio's page: keeps what it is launched with."""

    def __init__(self) -> None:
        self.queued: dict = {}
        self.launched: dict = {}

    def queue(self, **options):
        self.queued = options

    def launch(self, **options):
        self.launched = options
        return None, "http://127.0.0.1:7860/", None


@pytest.fixture
def served(monkeypatch):
    """What `serve` asks of the library."""
    made = Page()
    theme = types.SimpleNamespace(Default=lambda **_: None)
    monkeypatch.setattr(web, "import_gradio", lambda: types.SimpleNamespace(themes=theme))
    monkeypatch.setattr(web, "build_page", lambda chat: made)

    def serve(**options) -> Page:
        web.serve(None, wait=False, **options)  # type: ignore[arg-type]
        return made

    return serve


def test_the_page_listens_on_this_machine_alone_and_is_not_shared(served):
    made = served()
    assert made.launched["server_name"] == "127.0.0.1" and made.launched["share"] is False
    assert made.queued == {"max_size": web.MAX_QUEUE, "default_concurrency_limit": 1}
    ((middleware, _, options),) = made.launched["app_kwargs"]["middleware"]
    assert middleware is limits.BodyLimit and options == {"largest": limits.MAX_BODY_BYTES}
    assert made.launched["max_file_size"] == limits.MAX_BODY_BYTES and made.launched["auth"] is None


def test_a_token_is_asked_for_and_only_the_right_one_is_taken(served):
    right = served(token="s3cret").launched["auth"]
    assert right("ftcli", "s3cret")
    assert not any(right(*pair) for pair in [("ftcli", "s3cre"), ("ftcli", ""), ("x", "s3cret")])


class Model:
    """Stands for a chat whose model must not be asked."""

    kind = "messages"
    asked = 0

    def with_history(self, history):
        return self

    def say(self, text, write):
        type(self).asked += 1
        write("yes")


@pytest.mark.parametrize("where", ["prompt", "history"])
def test_a_long_prompt_never_reaches_the_model(where):
    long = "x" * (web.MAX_CHARACTERS + 1)
    Model.asked = 0
    history = [{"role": "user", "content": long if where == "history" else "a"}]
    with pytest.raises(UserError, match="at most 20,000 characters"):
        list(web.stream_replies(Model(), long if where == "prompt" else "a", history))  # type: ignore[arg-type]
    assert Model.asked == 0
    assert list(web.stream_replies(Model(), "a", [])) == ["yes"] and Model.asked == 1  # type: ignore[arg-type]


def asked(body: list[bytes], length: int | None) -> tuple[int, int]:
    """Status of a request through the limit, and how many bytes of its body the page read."""
    sent: list[dict] = []
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    read = 0

    async def receive():
        return parts.pop(0) if parts else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        nonlocal read
        while (message := await receive())["type"] == "http.request":
            read += len(message["body"])
            if not message["more_body"]:
                return await send({"type": "http.response.start", "status": 200})

    headers = [(b"content-length", str(length).encode())] if length is not None else []
    scope = {"type": "http", "headers": headers}
    asyncio.run(limits.BodyLimit(app, largest=100)(scope, receive, send))
    return (sent[0]["status"] if sent else 0), read


def test_a_large_body_is_refused_unread_also_where_its_length_lies():
    assert asked([b"x" * 50], 50) == (200, 50)
    assert asked([b"x" * 50] * 100, 5000) == (413, 0)
    assert asked([b"x" * 50] * 100, 10) == (0, 100)
    assert asked([b"x" * 50] * 100, None) == (0, 100)
    assert asked([b"x"], -1)[0] == 413
