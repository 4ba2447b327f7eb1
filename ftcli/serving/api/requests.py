"""Bodies of requests, checked: what is not supported is refused by name, not passed over."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ftcli.serving.api.errors import ApiError

#: Keys that change no answer here.
WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key",
    "safety_identifier",
)  # fmt: skip
#: Keys of OpenAI's API that are not supported, and the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,),
    "top_logprobs": (0,), "response_format": ({"type": "text"},), "echo": (False,), "suffix": ("",),
    "best_of": (1,), "modalities": (["text"],), "audio": (), "prediction": (), "functions": ([],),
    "function_call": ("none", "auto"), "web_search_options": (), "verbosity": (),
    "reasoning_effort": (),
}  # fmt: skip
MAX_CHOICES = 16  # answers of a request


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class CompletionRequest(BaseModel):
    """Fields of both kinds of requests."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: list[str] | None = Field(None, max_length=4)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _list_stops(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and "" in value:
            raise ValueError("an empty string ends every answer")
        return value

    @property
    def limit(self) -> int | None:
        """Longest answer in tokens, where the request says so."""
        return self.max_tokens

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(CompletionRequest):
    """Body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def limit(self) -> int | None:
        """Longest answer in tokens, where the request says so."""
        return self.max_completion_tokens or self.max_tokens


class TextRequest(CompletionRequest):
    """Body of /v1/completions."""

    prompt: list[str] = Field(min_length=1, max_length=MAX_CHOICES)

    @field_validator("prompt", mode="before")
    @classmethod
    def _list_prompts(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


R = TypeVar("R", bound=CompletionRequest)


def parse_request(kind: type[R], body: Any) -> R:
    """Return a checked request.

    Raises:
        ApiError: the body is no object, or a key is unknown, not supported or of a wrong value.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object.", fix='{"model": ..., ...}')
    fields = {key: value for key, value in body.items() if value is not None}
    for key in WITHOUT_EFFECT:
        fields.pop(key, None)
    for key, neutral in UNSUPPORTED.items():
        if key in fields and fields.pop(key) not in neutral:
            raise ApiError(400, f"ftcli serve does not support {key}.", key, f"leave {key} out")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _convert(error) from error


def _convert(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"there is no {param}.", param, f"leave {param} out")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param, f"add {param}")
    given = repr(first.get("input"))
    what = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{what[0].lower()}{what[1:]}, not {given[:60]}.", param, "another value")
