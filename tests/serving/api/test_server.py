"""The server as clients of OpenAI's API see it: the same answers as `ftcli chat`, none lost, none wrong."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection

import pytest

from ftcli.cli.app import run as run_command
from ftcli.serving.api.app import Defaults
from ftcli.serving.api.engine import MAX_WAITING, Engine
from ftcli.serving.api.rows import Row
from ftcli.serving.api.served import Served, open_models
from ftcli.serving.api.server import Server, open_socket
from ftcli.serving.chat import Chat

openai = pytest.importorskip("openai", reason="pip install 'ftcli[dev]'")
pytest.importorskip("starlette", reason="pip install 'ftcli[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'ftcli[serve]'")

LONGEST = 12  # tokens of an answer where a request says nothing
PROMPTS = [
    f"name[{name}], {more}area[riverside]"
    for name in ("The Mill", "Blue Spice", "Giraffe", "The Eagle")
    for more in ("", "food[French], ", "eatType[coffee shop], familyFriendly[no], ")
]
SECONDS = 120  # in which all requests must be answered


@contextmanager
def serving(models: list[Served], **options) -> Iterator[str]:
    """Serve models in a thread; yields the address."""
    server = Server(models, open_socket("127.0.0.1", None), Defaults(LONGEST), **options)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


def client_of(url: str, key: str = "none"):
    """A client that neither repeats requests nor waits for ever."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=SECONDS)


@pytest.fixture(scope="module")
def models(lora_run, trained_run, tuned) -> list[Served]:
    """LoRA on plain weights, LoRA on nf4, and LoRA on conversations that it knows by heart."""
    return open_models([lora_run, trained_run, tuned])


@pytest.fixture(scope="module")
def url(models) -> Iterator[str]:
    with serving(models) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return client_of(url)


@pytest.fixture(scope="module")
def chat(lora_run) -> Chat:
    """The reference, with a model of its own."""
    return Chat.open(lora_run, max_new_tokens=LONGEST)


def ask(client, text: str, model: str = "lora16", **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **options)


def test_models_are_listed_and_described(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["lora16", "tiny", "talks"]
    assert client.models.retrieve("talks").id == "talks"


def test_an_answer_is_that_of_chat_with_its_usage(client, chat):
    answer = ask(client, PROMPTS[1])
    (choice,) = answer.choices
    assert choice.message.content == chat.say(PROMPTS[1]) and choice.message.role == "assistant"
    assert answer.usage.prompt_tokens == len(chat.prompt(PROMPTS[1]))
    assert 0 < answer.usage.completion_tokens <= LONGEST and answer.model == "lora16"


def test_a_stream_is_the_same_answer_in_pieces(client, chat):
    events = list(ask(client, PROMPTS[0], stream=True, stream_options={"include_usage": True}))
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == chat.say(PROMPTS[0]) and sum(map(bool, pieces)) > 1
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-2].choices[0].finish_reason in ("stop", "length")
    assert events[-1].usage.completion_tokens > 1 and len({event.id for event in events}) == 1


def test_requests_at_once_to_several_models_are_answered_as_one_by_one(client, models):
    asked = [(model, text) for text in PROMPTS[:4] for model in ("lora16", "tiny")]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda pair: ask(client, pair[1], pair[0]), asked))
    chats = {served.name: served.chat for served in models}
    for served in models:
        chats[served.name].max_new_tokens = LONGEST
    for (model, text), answer in zip(asked, answers, strict=True):
        assert answer.choices[0].message.content == chats[model].say(text)
        assert answer.model == model


def test_an_end_that_was_learned_ends_an_answer(client, answers):
    for text, expected in answers.items():
        answer = ask(client, text, "talks", max_tokens=60)
        assert answer.choices[0].message.content == expected
        assert answer.choices[0].finish_reason == "stop"


def test_stop_strings_and_limits_cut_an_answer(client):
    cut = ask(client, "say two", "talks", stop=["words", "never"]).choices[0]
    assert cut.message.content == "It has two" and cut.finish_reason == "stop"
    short = ask(client, "say two", "talks", max_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    stream = ask(client, "say two", "talks", stop="two w", stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in stream) == "It has"


def test_a_conversation_is_rendered_as_chat_does(client, models):
    history = [{"role": "user", "content": "say one"}, {"role": "assistant", "content": "no"}]
    messages = [*history, {"role": "user", "content": [{"type": "text", "text": "say two"}]}]
    answer = client.chat.completions.create(model="talks", messages=messages)
    talks = models[2].chat.with_history(history)
    talks.max_new_tokens = LONGEST
    assert answer.usage.prompt_tokens == len(talks.prompt("say two"))
    assert answer.choices[0].message.content == talks.say("say two")


def test_seeds_repeat_and_choices_differ(client):
    warm = {"temperature": 2.0, "top_p": 0.95, "n": 3, "seed": 5}
    first, again = (ask(client, PROMPTS[0], **warm) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices] and len(set(texts)) == 3
    other = ask(client, PROMPTS[0], **warm | {"seed": 500})
    assert other.choices[0].message.content != texts[0]


def test_a_text_is_continued_without_a_template(client, models):
    two = client.completions.create(model="lora16", prompt=["name[The", "x"], max_tokens=3)
    run = models[0].run
    lengths = [len(run.data.beginning_ids(text, run.tokenizer)) for text in ("name[The", "x")]
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.usage.prompt_tokens == sum(lengths) and two.usage.completion_tokens == 6
    stream = client.completions.create(model="lora16", prompt="name[The", max_tokens=3, stream=True)
    assert "".join(event.choices[0].text for event in stream) == two.choices[0].text


TOOL = {"type": "function", "function": {"name": "weather", "description": "of a place"}}
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tools_reach_the_template_or_are_refused(client, models, monkeypatch):
    with pytest.raises(openai.BadRequestError, match="does not show tools"):
        ask(client, "say one", "talks", tools=[TOOL])
    monkeypatch.setattr(models[2].run.tokenizer, "chat_template", TOOL_TEMPLATE)
    tokens = [
        ask(client, "say one", "talks", max_tokens=1, **options).usage.prompt_tokens
        for options in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"})
    ]
    assert tokens[1] > tokens[0] + 10 and tokens[2] == tokens[0]


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"model": "nobody"}, "model", "one of lora16, tiny, talks"),
        ({"max_tokens": 5000}, "max_tokens", "context is 1024 tokens"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", "role 'king'"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, "messages", "shorter prompt"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "single prompts"),
        ({"model": "talks", "messages": [{"role": "assistant", "content": "x"}]}, "messages", "not"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_one_message(client, change, param, says):
    fields = {"model": "lora16", "messages": [{"role": "user", "content": "x"}]} | change
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**fields)
    assert caught.value.param == param and says in caught.value.body["message"]
    assert caught.value.status_code == (404 if change.get("model") == "nobody" else 400)
    assert "Fix: " in caught.value.body["message"]


def test_what_is_no_request_of_the_api_is_refused_as_one(url):
    connection = HTTPConnection(url.split("/")[2], timeout=SECONDS)

    def status(body: bytes | None, path: str = "/v1/chat/completions", **headers: str) -> int:
        fields = {"Content-Type": "application/json"} | headers
        connection.request("GET" if body is None else "POST", path, body, fields)
        answer = connection.getresponse()
        assert json.load(answer)["error"]["message"]
        connection.close()
        return answer.status

    assert status(b"{") == 400 and status(b"[" * 100_000) == 400
    assert status(b"{}", **{"Content-Type": "text/plain"}) == 415
    assert status(b"", **{"Content-Length": str(2 << 20)}) == 413
    assert status(None) == 405 and status(None, "/v1/nothing") == 404
    assert status(b"{}", Host="evil.example") == 403


def test_more_than_may_wait_are_refused_and_the_rest_is_answered(client, models, monkeypatch):
    monkeypatch.setattr("ftcli.serving.api.engine.MAX_WAITING", 2)
    with pytest.raises(openai.RateLimitError, match="wait already"):
        ask(client, PROMPTS[0], n=3)
    assert MAX_WAITING >= 32 and len(ask(client, PROMPTS[0], n=2).choices) == 2


def test_an_error_of_the_model_ends_its_requests_and_not_the_server(client, models, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("ftcli.serving.api.engine.generate_tokens", fail)
        with pytest.raises(openai.InternalServerError, match="RuntimeError"):
            ask(client, PROMPTS[0])
    assert ask(client, PROMPTS[0]).choices[0].message.content


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(models, monkeypatch, stream):
    rows: list[Row] = []
    submit = Engine.submit
    monkeypatch.setattr(
        Engine, "submit", lambda engine, name, new: (rows.extend(new), submit(engine, name, new))
    )
    monkeypatch.setattr(Row, "push", lambda row, token, ends: row.tokens.append(token))
    with serving(models[:1]) as url:  # a row that never ends by itself
        impatient = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=0.5)
        with suppress(openai.APITimeoutError):
            answer = ask(impatient, PROMPTS[0], max_tokens=900, stream=stream)
            next(iter(answer))
            answer.close()
        end = time.monotonic() + SECONDS
        while not rows[0].cancelled and time.monotonic() < end:
            time.sleep(0.05)
        assert rows[0].cancelled and len(rows[0].tokens) < 900


def test_a_token_is_asked_for(models):
    with serving(models[:1], token="s3cret") as url:
        with pytest.raises(openai.AuthenticationError):
            client_of(url, "wrong").models.list()
        assert client_of(url, "s3cret").models.list().data


def test_without_its_packages_the_message_names_the_command(trained_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert run_command(["serve", str(trained_run)]) == 2
    assert "pip install 'ftcli[serve]'" in capsys.readouterr().err


def test_other_machines_are_refused_before_anything_is_loaded(trained_run, capsys):
    assert run_command(["serve", str(trained_run), "--host", "0.0.0.0"]) == 2
    assert "--token" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 5, 32])
def test_a_load_of_32_clients_loses_nothing_and_mixes_nothing_up(lora_run, trained_run, max_batch):
    models = open_models([lora_run, trained_run])
    asked = [
        (served.name, text, limit)
        for served in models for text in PROMPTS for limit in (3, 10, 30)
    ]  # fmt: skip
    expected = {}
    for served in models:
        for text in PROMPTS:
            for limit in (3, 10, 30):
                one = served.chat.with_history([])
                one.max_new_tokens = limit
                one.__dict__.pop("settings", None)
                expected[served.name, text, limit] = one.say(text)
    start = time.perf_counter()
    with serving(models, max_batch=max_batch) as url, ThreadPoolExecutor(32) as pool:
        client = client_of(url)

        def answer(job: tuple[str, str, int]) -> str:
            model, text, limit = job
            if hash(text) % 2:
                return ask(client, text, model, max_tokens=limit).choices[0].message.content
            stream = ask(client, text, model, max_tokens=limit, stream=True)
            return "".join(event.choices[0].delta.content or "" for event in stream)

        answers = list(pool.map(answer, asked))
    assert time.perf_counter() - start < SECONDS
    assert answers == [expected[job] for job in asked]
    assert len({json.dumps(text) for text in answers}) > len(PROMPTS)
