"""The page: what it sends, what it refuses, and, where there is a browser, what one sees."""

from __future__ import annotations

import shutil
import socket
import sys

import pytest

from ftcli.cli.app import run
from ftcli.core.errors import UserError
from ftcli.run.build import open_run
from ftcli.serving import web
from ftcli.serving.chat import Chat

PROMPT = "name[The Mill], food[French]"


@pytest.fixture(scope="module")
def bot(trained_run):
    return Chat(open_run(trained_run), max_new_tokens=8)


def test_the_answer_grows_and_ends_as_chat_has_it(bot):
    answers = list(web.stream_replies(bot, PROMPT, []))
    assert all(
        later.startswith(earlier) for earlier, later in zip(answers, answers[1:], strict=False)
    )
    assert len(answers) > 1 and answers[-1].strip() == bot.say(PROMPT)


def test_what_cannot_be_answered_is_an_error_of_the_page(bot):
    with pytest.raises(UserError, match="fill the model's context"):
        list(web.stream_replies(bot, "name[The Mill] " * 400, []))
    assert list(web.stream_replies(bot, PROMPT, []))  # and the page goes on


def test_messages_of_the_page_as_turns():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    history = [
        {"role": "user", "content": "x", "metadata": None},
        {"role": "assistant", "content": parts},
    ]
    assert web.convert_history(history) == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "ab"},
    ]


def test_visitors_do_not_share_a_conversation(bot):
    talker = Chat.__new__(Chat)
    talker.__dict__ |= {**bot.__dict__, "kind": "messages"}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    first, second = talker.with_history(history), talker.with_history([])
    assert first.history == history and second.history == [] and first.history is not history
    assert bot.with_history(history).history == []  # each line stands alone


def test_held_out_prompts_are_offered(bot):
    prompts = web.find_examples(bot)
    assert len(prompts) == web.SHOWN and all(prompt.startswith("name[") for prompt in prompts)


def test_without_gradio_the_message_names_the_command(trained_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(["chat", str(trained_run), "--web"]) == 2
    assert "pip install 'ftcli[web]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(bot, tmp_path):
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium on the PATH")
    blocks, url = web.serve(bot, wait=False)
    addresses: list[str] = []
    try:
        with playwright.sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 800})
            page.on("request", lambda request: addresses.append(request.url))
            page.goto(url, timeout=240_000)
            box = page.get_by_role("textbox").first
            box.wait_for(timeout=240_000)
            page.screenshot(path=str(tmp_path / "start.png"))
            assert page.get_by_text(web.find_examples(bot)[0]).count() >= 1
            box.fill(PROMPT)
            box.press("Enter")
            answer = page.locator(".message.bot, [data-testid=bot]").last
            answer.wait_for(timeout=240_000)
            expected = bot.say(PROMPT)
            playwright.expect(answer).to_contain_text(expected, timeout=240_000)
            page.screenshot(path=str(tmp_path / "page.png"))
            browser.close()
    finally:
        blocks.close()
    assert (tmp_path / "page.png").stat().st_size > 10_000
    strangers = [
        address for address in addresses if not address.startswith((url, "data:", "blob:"))
    ]
    assert strangers == []
    assert not url.startswith("http://0.0.0.0")


@pytest.mark.slow
def test_a_taken_port_is_refused(bot):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind((web.LOOPBACK, 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            web.serve(bot, taken.getsockname()[1], wait=False)
