"""Fields of a request, and the one message on a field that is not allowed."""

from __future__ import annotations

import pytest

from ftcli.serving.api.errors import ApiError
from ftcli.serving.api.requests import ChatRequest, TextRequest, parse_request

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_what_changes_nothing_is_taken():
    asked = CHAT | {
        "n": 1, "user": "x", "metadata": {"a": "b"}, "frequency_penalty": 0, "presence_penalty": 0.0,
        "logit_bias": {}, "response_format": {"type": "text"}, "tools": None, "stop": "END",
        "logprobs": False, "stream": False, "tool_choice": "auto",
    }  # fmt: skip
    request = parse_request(ChatRequest, asked)
    assert request.stop == ["END"] and request.limit is None and not request.tells_usage


def test_the_newer_name_of_the_limit_goes_first():
    both = CHAT | {"max_tokens": 3, "max_completion_tokens": 5}
    assert parse_request(ChatRequest, both).limit == 5
    assert parse_request(TextRequest, {"model": "m", "prompt": "x", "max_tokens": 3}).limit == 3


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2, not 3"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"seed": 1 << 70}, "seed", ""),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "empty string"),
        ({"n": 100}, "n", "16"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "list"),
        ({"model": None}, "model", "missing"),
        ({"temprature": 1}, "temprature", "there is no temprature"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "does not support"),
        ({"logprobs": True}, "logprobs", "does not support"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not support"),
        ({"tool_choice": "required"}, "tool_choice", "'auto' or 'none'"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "there is no"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_a_way_out(change, param, says):
    with pytest.raises(ApiError) as caught:
        parse_request(ChatRequest, CHAT | change)
    error = caught.value.body()["error"]
    assert error["param"] == param and says in error["message"] and " Fix: " in error["message"]
    assert error["type"] == "invalid_request_error" and caught.value.status == 400


@pytest.mark.parametrize("body", [[], "x", 3, None])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(ApiError, match="not a JSON object"):
        parse_request(ChatRequest, body)


def test_token_ids_as_prompts_are_refused():
    with pytest.raises(ApiError) as caught:
        parse_request(TextRequest, {"model": "m", "prompt": [1, 2]})
    assert caught.value.param == "prompt.0"
