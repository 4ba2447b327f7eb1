"""Findings on a job's data: its first rows as training would tokenise them, or counts of labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.statistics import format_counts
from ftcli.planning.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from ftcli.data.dataset import Data
    from ftcli.data.tokens import TokenizedSplit

ROWS = 256  # source rows that are tokenised
EXAMPLES = 4  # labelled examples of a split that are read and turned into tensors
BARS = 8  # of the histogram
SHORT = 60  # characters of a text that are shown
MANY = 0.05  # share of cut documents that is worth a warning


@dataclass(frozen=True)
class TokenSample:
    """Figures of the first documents of the training split.

    Attributes:
        lengths: tokens of each document, int64 [documents], cut at `data.max_length`.
        meta: what preparation counted.
        whole: the source has no further rows.
        shown: prompt and learned part of the first document, as text.
    """

    lengths: np.ndarray
    meta: dict[str, Any]
    whole: bool
    shown: tuple[str, str]

    @property
    def learned(self) -> float:
        """Share of tokens that have a label."""
        return float(self.meta["supervised"] / max(1, int(self.lengths.sum())))

    @property
    def cut(self) -> float:
        """Share of documents longer than `data.max_length`."""
        return float(self.meta["overlong"] / max(1, len(self.lengths) + self.meta["dropped"]))

    def histogram(self) -> list[dict[str, int]]:
        """Documents by length, in about equal steps from the shortest to the longest."""
        low, high = int(self.lengths.min()), int(self.lengths.max())
        edges = np.linspace(low, high + 1, min(BARS, high + 1 - low) + 1).round()
        counts, _ = np.histogram(self.lengths, bins=edges)
        return [
            {"from": int(first), "to": int(last) - 1, "documents": int(count)}
            for count, first, last in zip(counts, edges, edges[1:], strict=False)
        ]


def sample_tokens(data: Data, tokenizer: PreTrainedTokenizerBase, rows: int = ROWS) -> TokenSample:
    """Tokenise the first `rows` rows of each training source in a temporary folder, not in the cache.

    Raises:
        UserError: a row cannot be used, or nothing would be learned.
    """
    most = rows if data.limit is None else min(rows, data.limit)
    with TemporaryDirectory() as folder:
        tokenized = replace(data, limit=most, cache_dir=folder).prepare("train", tokenizer)
        whole = all(meta["entries"] < most for meta in tokenized.metas)
        shown = _decode_first(tokenized, tokenizer)
        return TokenSample(np.array(tokenized.lengths), dict(tokenized.meta), whole, shown)


def _decode_first(tokenized: TokenizedSplit, tokenizer: Any) -> tuple[str, str]:
    """Return prompt and learned part of the first document as text."""
    row = tokenized.row(0)
    learned = row["labels"] >= 0
    first = int(np.argmax(learned))
    decode = tokenizer.decode
    return decode(row["input_ids"][:first].tolist()), decode(row["input_ids"][learned].tolist())


def source_findings(data: Any) -> Iterator[Finding]:
    """Say what each of several sources gives to an epoch, and which of its columns are not read."""
    for number, line in enumerate(data.plan_shares() if hasattr(data, "plan_shares") else ()):
        yield ok("source", line)
        if number and (note := data.find_unused_columns("train", number).note()):
            where = f"data.sources.{number}.columns"
            yield warn("source", note, f"name its field: {where}.<field>=<column>")


def check_template(
    data: Data, tokenizer: PreTrainedTokenizerBase, example: dict[str, Any]
) -> Finding:
    """Say how rows like this example are written.

    Raises:
        UserError: they are conversations, and the tokenizer has no chat template.
    """
    from ftcli.data.chat_templates.template import ChatTemplate
    from ftcli.data.render import DEFAULT_TEMPLATE, is_conversation

    if "text" in example:
        return ok("template", "none: text is learned as it is")
    if is_conversation(example, data.template):
        chat = ChatTemplate(tokenizer, data.date, data.template_options)
        how = "by its own markers" if chat.has_markers else "by prefix differencing"
        notes = "".join(f"; {note}" for note in chat.notes())
        return ok("template", f"the tokenizer's chat template; answers are found {how}{notes}")
    return ok("template", f"plain: {data.prompt_template or DEFAULT_TEMPLATE!r}, then the answer")


def check_sample(sample: TokenSample, limit: int, turns: bool = True) -> Iterator[Finding]:
    """Findings on learned tokens and lengths of sampled documents.

    Args:
        limit: `data.max_length`.
        turns: whether documents are made of turns, whose ends must be learned.
    """
    prompt, learned = (repr(_shorten(text)) for text in sample.shown)
    share = f"{100 * sample.learned:.0f} % of the tokens are learned"
    if turns and "no_end" not in sample.meta["dropped_content"]:
        share += ", every end of turn too"
    yield ok("train_on", f"{share}; first: {prompt} -> {learned}")
    median, high = np.percentile(sample.lengths, (50, 95))
    longest = sample.meta["longest"]
    text = (
        f"{format_counts(sample.meta)}; {len(sample.lengths)} sampled documents: median {median:.0f} tokens, "
        f"95 % below {high:.0f}, longest {longest:,}; "
        f"{100 * sample.cut:.1f} % above data.max_length={limit}"
    )
    if sample.cut > MANY:
        yield warn("lengths", text, f"data.max_length={longest}")
    else:
        yield ok("lengths", text)


def _shorten(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def example_findings(data: Any, processor: Any, config: PretrainedConfig) -> Iterator[Finding]:
    """Findings on labelled examples that are no text: counts, shapes, number of classes.

    Args:
        data: images or sounds with their labels.
        processor: what turns an example into tensors.
        config: configuration of the model, whose `num_labels` must be the number of classes.

    Raises:
        UserError: an example cannot be read, or a split is empty.
    """
    for split in data.splits:
        rows = data.prepare(split, processor)
        inputs = rows.batch(range(min(EXAMPLES, len(rows))))["inputs"]
        shapes = ", ".join(f"{name} {list(tensor.shape[1:])}" for name, tensor in inputs.items())
        yield ok(
            "examples",
            f"{split}: {rows.summary()}, {min(rows.counts.values())} or more of each; {shapes}",
        )
    classes = getattr(config, "num_labels", None)
    if classes is not None and classes != len(data.names):
        yield fail("labels", UserError(
            f"the data have {len(data.names)} classes, the head has {classes}.",
            where="model.labels",
            fix=f"model.labels={len(data.names)}",
        ))  # fmt: skip
