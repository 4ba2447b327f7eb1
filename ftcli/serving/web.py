"""A web page to chat with a trained model, for this machine only and without external requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from itertools import islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from ftcli.core.errors import UserError, missing_package
from ftcli.serving.chat import Chat
from ftcli.serving.limits import MAX_BODY_BYTES, USER, BodyLimit, make_login_check

LOOPBACK = "127.0.0.1"
MAX_CHARACTERS = 20_000  # of a prompt together with its conversation
MAX_QUEUE = 16  # length of the queue; further visitors are rejected
SHOWN = 4  # number of held-out prompts offered as examples
#: Fonts installed with the browser, since Gradio's theme fetches its fonts from a server.
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]


def import_gradio() -> Any:
    """Import Gradio with telemetry disabled; returns the library.

    Raises:
        UserError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio as library
    except ImportError as error:
        raise missing_package("gradio", "web", "chat --web") from error
    return library


def serve(
    chat: Chat, port: int | None = None, wait: bool = True, token: str | None = None
) -> tuple[Any, str]:
    """Serve the page on the loopback interface, to one visitor at a time, with bounded requests.

    Args:
        port: None takes the first free port from 7860 on.
        wait: whether to block until the process is interrupted.
        token: password of the user `ftcli`; None admits every user of this machine.

    Returns:
        The page and its address.

    Raises:
        UserError: gradio is missing, or the port is taken.
    """
    library = import_gradio()
    blocks = build_page(chat)
    blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=1)
    theme = library.themes.Default(font=FONT, font_mono=MONO)
    try:
        _, url, _ = blocks.launch(
            server_name=LOOPBACK, server_port=port, share=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, theme=theme, footer_links=[], run_history=False,
            ssr_mode=False, enable_monitoring=False, max_file_size=MAX_BODY_BYTES, show_error=False,
            auth=make_login_check(token) if token else None,
            app_kwargs={"middleware": [(BodyLimit, (), {"largest": MAX_BODY_BYTES})]},
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error}", "--port", "another port") from error
    if wait:
        login = f"; user {USER}, password {token}" if token else ""
        print(f"{url}  (this machine only{login}; Ctrl-C ends)", flush=True)
        blocks.block_thread()
    return blocks, url


def build_page(chat: Chat) -> Any:
    """Return the page: a conversation, and prompts of held-out rows as examples."""
    library = import_gradio()

    def reply(message: str, history: list[dict[str, Any]]) -> Iterator[str]:
        try:
            yield from stream_replies(chat, message, history)
        except UserError as error:
            raise library.Error(str(error), print_exception=False) from error

    talks = chat.kind == "messages"
    return library.ChatInterface(
        reply,
        # plain text, so that output of the model cannot make the browser fetch a picture
        chatbot=library.Chatbot(
            render_markdown=False, show_label=False, buttons=["copy"], height="65vh"
        ),
        textbox=library.Textbox(
            placeholder="a prompt; Shift+Enter for a new line",
            show_label=False,
            max_lines=20,
            max_length=MAX_CHARACTERS,
            submit_btn=True,
            stop_btn=True,
        ),
        title=escape(chat.run.dir.path.parent.name) if chat.run.dir else "ftcli",
        description="What is said before is part of the prompt."
        if talks
        else "Each prompt stands alone, as in training.",
        examples=find_examples(chat),
        cache_examples=False,
        api_visibility="private",
        analytics_enabled=False,
        flagging_mode="never",
    )


_one_at_a_time = Lock()


def stream_replies(chat: Chat, message: str, history: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the answer so far, until it is complete.

    The page sends the history of its visitor; the shared model writes one answer at a time.

    Raises:
        UserError: the prompt leaves no room for an answer, or prompt and history are too long. The
            text box limits only requests that the page sends.
    """
    previous = convert_history(history)
    if len(message) + sum(len(turn["content"]) for turn in previous) > MAX_CHARACTERS:
        raise UserError(
            f"a prompt, with what was said before it, has at most {MAX_CHARACTERS:,} characters.",
            fix="shorten the prompt, or start a new conversation",
        )
    pieces: SimpleQueue[str | Exception | None] = SimpleQueue()

    def work() -> None:
        try:
            with _one_at_a_time:
                chat.with_history(previous).say(message, pieces.put)
        except Exception as error:
            pieces.put(error)
        pieces.put(None)

    Thread(target=work, daemon=True).start()
    text = ""
    while (piece := pieces.get()) is not None:
        if isinstance(piece, Exception):
            raise piece
        text += piece
        yield text
    if not text.strip():
        yield "(the answer is empty)"


def convert_history(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return Gradio's messages, whose content may be a list of parts, as role and text."""

    def text(content: Any) -> str:
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)

    return [{"role": m["role"], "content": text(m["content"])} for m in history]


def find_examples(chat: Chat) -> list[str]:
    """Return the first held-out prompts of the run's data; empty where the data cannot be read."""
    try:
        rows = chat.run.data.examples(chat.run.data.splits[-1])
        prompts = dict.fromkeys(_user_text(row) for row in islice(rows, 8 * SHOWN))
    except (UserError, OSError):
        return []
    return [prompt for prompt in prompts if prompt][:SHOWN]


def _user_text(row: dict[str, Any]) -> str:
    """Return the text of the user in a row."""
    prompt = row.get("prompt") or row.get("messages") or ""
    if isinstance(prompt, str):
        return prompt
    return next((str(turn["content"]) for turn in prompt if turn["role"] == "user"), "")
