"""The HTTP application: OpenAI's paths, answered by the rows of the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftcli.serving.api.answer_text import AnswerText
from ftcli.serving.api.engine import MAX_WAITING, Busy, Engine
from ftcli.serving.api.errors import ApiError
from ftcli.serving.api.objects import Answer, ChatAnswer, TextAnswer
from ftcli.serving.api.pending import Pending, stream_events, wait_for_answer
from ftcli.serving.api.prompts import limit_answer, render_chat, render_texts
from ftcli.serving.api.requests import ChatRequest, CompletionRequest, TextRequest, parse_request
from ftcli.serving.api.rows import Event, Row
from ftcli.serving.api.served import Served


@dataclass
class Defaults:
    """Values for requests that do not set them.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: 0 decodes greedily.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0


class Api:
    """Handlers of the paths.

    Args:
        engine: generates.
        models: the models that requests may name.
        defaults: what holds for requests that do not say it.
    """

    def __init__(self, engine: Engine, models: Sequence[Served], defaults: Defaults) -> None:
        self.engine, self.defaults = engine, defaults
        self.models = {served.name: served for served in models}

    async def list_models(self, request: Any) -> Any:
        """Answer GET /v1/models."""
        return _json({"object": "list", "data": [self._describe(name) for name in self.models]})

    async def describe_model(self, request: Any) -> Any:
        """Answer GET /v1/models/NAME."""
        return _json(self._describe(self._find(request.path_params["name"]).name))

    async def complete_chat(self, request: Any) -> Any:
        """Answer POST /v1/chat/completions."""
        body = parse_request(ChatRequest, await _read_json(request))
        served = self._find(body.model)
        prompts = [render_chat(served, body)] * (body.n or 1)
        answer = ChatAnswer(served.name, [len(prompts[0])])
        return await self._answer(request, body, served, prompts, answer)

    async def complete_text(self, request: Any) -> Any:
        """Answer POST /v1/completions."""
        body = parse_request(TextRequest, await _read_json(request))
        served = self._find(body.model)
        texts = render_texts(served, body)
        prompts = [prompt for prompt in texts for _ in range(body.n or 1)]
        answer = TextAnswer(served.name, [len(prompt) for prompt in texts])
        return await self._answer(request, body, served, prompts, answer)

    async def _answer(
        self, request: Any, body: CompletionRequest, served: Served, prompts: list[list[int]],
        answer: Answer,
    ) -> Any:  # fmt: skip
        pending = self._submit(body, served, prompts, answer)
        if body.stream:
            from starlette.responses import StreamingResponse

            events = stream_events(pending, body.tells_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        await wait_for_answer(pending, request)
        return _json(answer.whole())

    def _submit(
        self, body: CompletionRequest, served: Served, prompts: list[list[int]], answer: Answer
    ) -> Pending:
        """Queue the rows of a request.

        Raises:
            ApiError: a prompt is too long, or too many rows wait.
        """
        pending = Pending(answer)
        loop = asyncio.get_running_loop()

        def emit(event: Event, index: int) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(pending.events.put_nowait, (index, event))

        warm = self.defaults.temperature if body.temperature is None else body.temperature
        strip = isinstance(body, ChatRequest)
        for index, prompt in enumerate(prompts):
            limit = limit_answer(served, prompt, body.limit, self.defaults.max_new_tokens)
            text = AnswerText(served.run.tokenizer, body.stop or (), strip, bool(body.stream))
            seed = None if body.seed is None else body.seed + index
            pending.rows.append(
                Row(
                    prompt,
                    limit,
                    text,
                    partial(emit, index=index),
                    temperature=warm,
                    top_p=body.top_p or 1.0,
                    seed=seed,
                )  # fmt: skip
            )
        try:
            self.engine.submit(served.name, pending.rows)
        except Busy as error:
            raise ApiError(
                429, f"{MAX_WAITING} answers wait already.", fix="ask again later",
                code="rate_limit_exceeded",
            ) from error  # fmt: skip
        return pending

    def _find(self, name: str) -> Served:
        if name not in self.models:
            raise ApiError(
                404, f"there is no model {name[:60]!r}.", "model",
                f"one of {', '.join(self.models)}", "model_not_found",
            )  # fmt: skip
        return self.models[name]

    def _describe(self, name: str) -> dict[str, Any]:
        created = int(self.models[name].run.created_at)
        return {"id": name, "object": "model", "created": created, "owned_by": "ftcli"}


async def _read_json(request: Any) -> Any:
    """Return the body of a request.

    Other types than JSON are refused: a page of a stranger may send those without asking the browser.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        fix = "send the header Content-Type: application/json"
        raise ApiError(415, f"the body is {kind or 'of no type'}, not JSON.", "Content-Type", fix)
    from starlette.requests import ClientDisconnect

    try:
        return json.loads(await request.body())
    except ClientDisconnect as error:  # also what `BodyLimit` makes of a body that is too large
        raise ApiError(413, "the body was cut off.", fix="a shorter prompt") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}.", fix="send a JSON object") from error


def _json(content: dict[str, Any], status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status)
