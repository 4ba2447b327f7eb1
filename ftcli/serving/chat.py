"""Chat with a trained model, with prompts rendered exactly as in training."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TextStreamer

from ftcli.core.errors import UserError
from ftcli.models.decoding import build_generation_config, decode_answer, evaluation_mode
from ftcli.run.report import read_json

if TYPE_CHECKING:
    from ftcli.core.run import Run

Write = Callable[[str], None]
KINDS = {"chat": "messages", "instruction": "prompt", "prompt": "prompt", "text": "text"}
PLACEHOLDER = "x"  # stands for the answer where rendering needs one


class Chat:
    """A conversation with the model of a run.

    Prompts are rendered by the run's data, as in training. For a model trained on conversations the
    history is part of the prompt; otherwise each prompt is independent.

    Args:
        run: a `Run` with trained weights.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 decodes greedily; above 0 samples.
    """

    def __init__(self, run: Run, max_new_tokens: int = 256, temperature: float = 0.0) -> None:
        self.run = run
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.kind = _find_kind(run)
        self.history: list[dict[str, str]] = []

    @cached_property
    def settings(self) -> Any:
        """How answers are decoded, by the limits of the run's model."""
        warm = self.temperature > 0
        sampling = {"do_sample": True, "temperature": self.temperature} if warm else {}
        run = self.run
        return build_generation_config(run.tokenizer, run.model, self.max_new_tokens, **sampling)

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together; a very large number where there is no limit."""
        return getattr(self.run.model.config, "max_position_embeddings", None) or 1 << 30

    @classmethod
    def open(cls, path: str | Path, checkpoint: str = "last", **options: Any) -> Chat:
        """Load the trained model of a run directory; options are those of the class."""
        from ftcli.run.build import open_run

        return cls(open_run(path, checkpoint=checkpoint), **options)

    def say(self, text: str, write: Write | None = None) -> str:
        """Return the answer to `text`; `write` is called with each piece as it is generated.

        Raises:
            UserError: the prompt leaves no room for an answer in the model's context.
        """
        import torch

        ids = self.prompt(text)
        tokenizer = self.run.tokenizer
        with evaluation_mode(self.run) as model:
            prompt = torch.tensor([ids], device=model.device)
            output = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self.settings,
                streamer=_PieceStreamer(tokenizer, write) if write else None,
            )
        answer = decode_answer(
            output[0, len(ids) :].tolist(), self.settings.eos_token_id, tokenizer
        )
        if self.kind == "messages":
            self.history += [_make_turn("user", text), _make_turn("assistant", answer)]
        return answer

    def prompt(self, text: str) -> list[int]:
        """Return token ids of the prompt for `text`; the oldest turns are dropped when the context is full."""
        while True:
            ids = self.render(text)
            room = self.context - len(ids)
            if room >= min(self.max_new_tokens, 16):
                return ids
            if not self.history:
                raise UserError(
                    f"the prompt has {len(ids)} tokens, which fill the model's context.",
                    fix="shorten the prompt",
                )
            del self.history[:2]

    def with_history(self, history: list[dict[str, str]]) -> Chat:
        """Return a chat with the same model and another history."""
        other = copy(self)
        other.history = list(history) if self.kind == "messages" else []
        return other

    def reset(self) -> None:
        """Forget the conversation so far."""
        self.history.clear()

    def render(self, text: str) -> list[int]:
        """Return token ids of the prompt for `text`, of any length, without loading the model."""
        if self.kind == "text":
            return list(self.run.data.beginning_ids(text, self.run.tokenizer))
        return self.run.data.prompt_ids(self._example(text), self.run.tokenizer)

    def _example(self, text: str) -> dict[str, Any]:
        if self.kind == "messages":
            turns = [*self.history, _make_turn("user", text), _make_turn("assistant", PLACEHOLDER)]
            return {"messages": turns}
        return {"prompt": text, "completion": PLACEHOLDER}


class _PieceStreamer(TextStreamer):
    """Passes each finished piece of text to a function."""

    def __init__(self, tokenizer: Any, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._write(text)


def _make_turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _find_kind(run: Run) -> str:
    """Return the canonical form of the training rows: messages, prompt or text.

    It is read from the record of the run, or else from the first row of the data.
    """
    record = read_json(run.dir.path / "data.json") if run.dir else {}
    if record.get("format") in KINDS:
        return KINDS[record["format"]]
    example: dict[str, Any] = next(iter(run.data.examples("train")), {})
    if "messages" in example or isinstance(example.get("prompt"), list):
        return "messages"
    return "prompt" if "prompt" in example else "text"
