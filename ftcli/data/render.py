"""Render canonical examples as token ids and masks of learned tokens.

An example becomes segments of text that are tokenised apart, each with the ranges of it that are
learned. So the tokens before the first answer are exactly the prompt that the model gets at
generation time.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ftcli.core.errors import UserError
from ftcli.data.chat_templates.template import ChatTemplate
from ftcli.data.rows import RowError
from ftcli.data.tokenization import LEARN_ALL, Segment, encode_segments
from ftcli.data.tokens import Document, split_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{prompt}"
DEFAULT_TEMPLATE = "{prompt}\n"
DATE = "2026-01-01"  # printed by templates as today's date; fixed, so that runs do not depend on the day


class DocumentText(NamedTuple):
    """The segments of a document, not yet tokenised, and the kinds of content that the template drops."""

    segments: list[Segment]
    dropped_content: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenderSettings:
    """Settings of rendering, all of which are part of the token cache's key."""

    max_length: int = 1024
    train_on: Literal["assistant", "all"] = "assistant"
    template: Literal["plain", "chat"] = "plain"
    prompt_template: str | None = None
    system: str | None = None
    pairs: bool = False
    date: str = DATE  # ISO
    template_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prompt_template is not None and PLACEHOLDER not in self.prompt_template:
            raise UserError(
                f"{self.prompt_template!r} does not contain {PLACEHOLDER}, where the prompt goes.",
                where="data.prompt_template",
                fix=f"write {PLACEHOLDER} where it belongs, for example '{PLACEHOLDER}\\n'",
            )
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError as error:
            raise UserError(
                f"{self.date!r} is not a date.", "data.date", "write year, month, day: 2026-01-31"
            ) from error


class Renderer:
    """Renders examples for one tokenizer.

    Args:
        rendering: the settings.
        tokenizer: tokenizer of the model.
    """

    def __init__(self, rendering: RenderSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        self.rendering, self.tokenizer = rendering, tokenizer

    @cached_property
    def chat(self) -> ChatTemplate:
        """The tokenizer's chat template.

        Raises:
            UserError: the tokenizer has none.
        """
        return ChatTemplate(self.tokenizer, self.rendering.date, self.rendering.template_options)

    @property
    def uses_markers(self) -> bool:
        """Whether the chat template has been used and has generation markers."""
        return "chat" in self.__dict__ and self.chat.has_markers

    def render_segments(
        self, examples: Sequence[dict[str, Any]]
    ) -> list[list[DocumentText] | RowError]:
        """Return the documents of each example before they are tokenised, or the reason why it has none."""
        return [self._try_render_documents(example) for example in examples]

    def tokenize_documents(
        self,
        examples: Sequence[dict[str, Any]],
        rendered: Sequence[list[DocumentText] | RowError] | None = None,
    ) -> list[list[Document] | RowError]:
        """Return the documents of each example, or the reason why it has none.

        Plain text may become several documents; a pair becomes two, chosen and rejected.

        Args:
            rendered: what `render_segments` returned for the examples; None: it is called.
        """
        if rendered is None:
            rendered = self.render_segments(examples)
        segments = [w.segments for row in rendered if not isinstance(row, RowError) for w in row]
        encoded = iter(encode_segments(segments, self.tokenizer))
        results: list[list[Document] | RowError] = []
        for example, row in zip(examples, rendered, strict=True):
            if isinstance(row, RowError):
                results.append(row)
                continue
            documents = [Document(*next(encoded), w.dropped_content) for w in row]
            for document in documents:
                document.loss_mask[:1] = 0  # nothing stands before it to predict it from
            if "text" in example:
                documents = split_windows(documents[0], self.rendering.max_length)
            results.append(documents)
        return results

    def encode_prompt(self, example: dict[str, Any]) -> list[int]:
        """Token ids of everything before the answer; empty for plain text."""
        return self._encode(self._prompt_segments(example))

    def encode_beginning(self, text: str) -> list[int]:
        """Token ids of a plain text that the model continues, with the start tokens of training."""
        return self._encode([*self._start_segments(), Segment(text)])

    def _encode(self, segments: list[Segment]) -> list[int]:
        return (
            [int(i) for i in encode_segments([segments], self.tokenizer)[0][0]] if segments else []
        )

    def hash_template(self, example: dict[str, Any]) -> str:
        """Hash of the template with which examples like this one are rendered."""
        if self._uses_chat_template(example):
            text = f"{self.chat.program.text}\n{self.rendering.system}\n{self.chat.options}"
        else:
            text = "" if "text" in example else self._template
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def _template(self) -> str:
        return self.rendering.prompt_template or DEFAULT_TEMPLATE

    def _uses_chat_template(self, example: dict[str, Any]) -> bool:
        return is_conversation(example, self.rendering.template)

    def _messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        if "messages" in example:
            messages = list(example["messages"])
        elif isinstance(example["prompt"], list):
            messages = [*example["prompt"], *example["chosen"]]
        else:
            messages = [
                {"role": "user", "content": example["prompt"]},
                {"role": "assistant", "content": _answer_text(example)},
            ]
        system = self.rendering.system
        if system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def _try_render_documents(self, example: dict[str, Any]) -> list[DocumentText] | RowError:
        """Return the documents of an example, not yet tokenised, or the reason why it has none."""
        try:
            return self._render_documents(example)
        except RowError as error:
            return error

    def _render_documents(self, example: dict[str, Any]) -> list[DocumentText]:
        if not self.rendering.pairs:
            return [self._render_document(example)]
        if "rejected" not in example:
            raise RowError("has no rejected answer, which data.pairs=true asks for.")
        if example["chosen"] == example["rejected"]:
            raise RowError("'chosen' and 'rejected' do not differ.")
        prompt = example["prompt"]
        if isinstance(prompt, list):  # of a pair only the answers that are compared count
            prompt = [{**turn, "learn": False} for turn in prompt]
        sides = (example["chosen"], example["rejected"])
        return [
            self._render_document({**example, "prompt": prompt, "chosen": side}) for side in sides
        ]

    def _render_document(self, example: dict[str, Any]) -> DocumentText:
        learns_all = self.rendering.train_on == "all"
        if self._uses_chat_template(example):
            rendered = self.chat.render_conversation(self._messages(example), example.get("tools"))
            spans = (
                _invert_spans(len(rendered.text), rendered.excluded)
                if learns_all
                else rendered.learned
            )
            return DocumentText([Segment(rendered.text, spans)], rendered.dropped_content)
        if "text" in example:
            return DocumentText(
                [
                    *self._start_segments(),
                    Segment(example["text"], LEARN_ALL),
                    *self._end_segments(),
                ]
            )
        prompt = self._prompt_segments(example)
        if learns_all:
            prompt = [Segment(segment.content, LEARN_ALL) for segment in prompt]
        return DocumentText(
            [*prompt, Segment(_answer_text(example), LEARN_ALL), *self._end_segments()]
        )

    def _prompt_segments(self, example: dict[str, Any]) -> list[Segment]:
        if self._uses_chat_template(example):
            messages = self._messages(example)
            if messages[-1]["role"] == "assistant":
                messages.pop()
            return [Segment(*self.chat.render_prompt(messages, example.get("tools")))]
        if "text" in example:
            return []
        return [
            *self._start_segments(),
            Segment(self._template.replace(PLACEHOLDER, example["prompt"])),
        ]

    def _start_segments(self) -> list[Segment]:
        return [Segment(self._leading_ids)] if self._leading_ids else []

    @cached_property
    def _leading_ids(self) -> list[int]:
        return find_leading_ids(self.tokenizer)

    def _end_segments(self) -> list[Segment]:
        return [self._end_segment]

    @cached_property
    def _end_segment(self) -> Segment:
        token = self.tokenizer.eos_token_id
        if token is None:
            raise UserError(
                "the tokenizer has no end-of-text token, so that answers could never end.",
                where="model.tokenizer",
                fix="use a tokenizer with eos_token, or data.template=chat",
            )
        return Segment([token], LEARN_ALL)


def is_conversation(example: dict[str, Any], template: str) -> bool:
    """Whether an example is rendered with the chat template; `template` is `data.template`."""
    turns = "messages" in example or isinstance(example.get("prompt"), list)
    return turns or ("prompt" in example and template == "chat")


def find_leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens in front of every plain document: those that the tokenizer adds, else its bos token."""
    whole = list(tokenizer("a").input_ids)
    plain = list(tokenizer("a", add_special_tokens=False).input_ids)
    for start in range(1, len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return whole[:start]
    token = tokenizer.bos_token_id
    return [] if token is None else [token]


def _invert_spans(length: int, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the ranges of a text of a given length that lie outside the spans."""
    bounds = [0, *(bound for span in sorted(spans) for bound in span), length]
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return tuple((start, end) for start, end in pairs if start < end)


def _answer_text(example: dict[str, Any]) -> str:
    return str(example["completion"] if "completion" in example else example["chosen"])
