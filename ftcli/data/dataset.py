"""The `data` option for text: the rows of a source, rendered, split, tokenised and batched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ftcli.core.errors import Problems, UserError
from ftcli.data import cache, dataset_errors
from ftcli.data.inspection import UnusedColumns
from ftcli.data.loader import Loader
from ftcli.data.preparation import Preparation, count_entries
from ftcli.data.render import DATE, Renderer, RenderSettings
from ftcli.data.rows import BadRow, UnusableRow
from ftcli.data.split import Splits
from ftcli.data.statistics import RowCounts, compute_statistics, format_counts, list_warnings
from ftcli.data.tokens import Document, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
log = logging.getLogger("ftcli.data")


class Prompt(NamedTuple):
    """Tokens of a prompt, the references that answers are compared with, and the row."""

    input_ids: list[int]
    references: list[str]
    row: dict[str, Any]


@dataclass
class Data:
    """Rows of a source, rendered for a tokenizer and given in batches."""

    path: str  # asset:e2e, a file, folder or glob, or a hub id
    name: str | None = None  # configuration of a hub data set
    split: str = "train"  # which split of the source is trained on
    revision: str | None = None  # branch, tag or commit of a hub data set
    format: Literal["auto", "chat", "instruction", "preference", "prompt", "text"] = "auto"
    columns: dict[str, str | None] = field(
        default_factory=dict
    )  # field of the format -> column; null leaves the field out
    validation: float | str | None = None  # share held out by prompt, or a path or split
    test: str | None = None  # path or split that is evaluated at the end
    max_length: int = 1024  # tokens a document, and a bin of packing=bins
    overlong: Literal["truncate", "drop", "error"] = "truncate"  # documents above max_length
    packing: Literal["auto", "flat", "bins", "none"] = (
        "auto"  # end to end, in full bins, or padded; auto: flat where that is measured to be right
    )
    mask: Literal["assistant", "all"] = "assistant"  # which tokens are learned
    template: Literal["plain", "chat"] = "plain"  # how prompt and instruction rows are written
    prompt_template: str | None = None  # plain rows: "{prompt}\n" when left out
    system: str | None = None  # system message for conversations that have none
    date: str = DATE  # printed by chat templates as today's date
    template_options: dict[str, Any] = field(default_factory=dict)  # variables of the chat template
    on_lost: Literal["refuse", "warn"] = "refuse"  # a chat template that drops content of rows
    pairs: bool = False  # preference rows give both answers, for objectives that compare them
    on_error: Literal["stop", "skip"] = "stop"  # rows that cannot be used
    limit: int | None = None  # read only the first rows of the training source
    text_unit: Literal["file", "paragraph", "line"] = "file"  # one row of a text file
    cache_dir: str | None = None  # folder of the token cache; ~/.cache/ftcli/tokens when left out

    def __post_init__(self) -> None:
        Problems.raise_if_any(list(dataset_errors.find_contradictions(self)))
        self._rendering = RenderSettings(
            self.max_length,
            self.mask,
            self.template,
            self.prompt_template,
            self.system,
            self.pairs,
            self.date,
            self.template_options,
        )
        self.reading = "plain"
        self._prepared: dict[str, Tokens] = {}
        self._splits = Splits(self)

    def use_row_format(
        self, packing: Literal["flat", "bins", "none"], reading: str = "plain"
    ) -> None:
        """Make batches in the row format that `ftcli.models.row_format_check` measured for the model."""
        self.packing, self.reading = packing, reading

    def examples(self, split: str = "train") -> Iterator[dict[str, Any]]:
        """Yield the canonical examples of a split, each with `references`, `row` and `origin`.

        Raises:
            UserError: a row cannot be used and `on_error` is stop.
        """
        for entry in self._splits.open(split).entries():
            if isinstance(entry, BadRow):
                if self.on_error == "stop" and not entry.intended:
                    raise entry
            elif entry is not None:
                yield entry

    def prepare(
        self,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[RowCounts], None] | None = None,
    ) -> Tokens:
        """Return the tokens of a split from the cache; tokenise it first where it is not cached.

        Args:
            split: train, validation or test.
            tokenizer: tokenizer of the model.
            progress: called with the counts so far after each chunk is written.

        Raises:
            UserError: there is no such split, a row cannot be used, or nothing would be learned.
        """
        rows = self._splits.open(split)
        work = self._preparation(tokenizer, progress)
        key = cache.hash_settings(work.settings(rows) | {"text_unit": self.text_unit})
        tokens = self._prepared.get(key)
        if tokens is None:
            tokens = cache.load_or_write(
                cache.token_folder(self.cache_dir),
                key,
                lambda writer: work.fill(writer, rows.entries()),
            )
            work.refuse_losses(tokens.meta)
            self._prepared[key] = tokens
            for warning in list_warnings(tokens.meta, split):
                log.warning(warning)
            if split == "train" and (note := rows.unused.note()):
                log.warning(note)
        if not len(tokens):
            raise dataset_errors.make_empty_split_error(split, self.path, tokens.meta)
        return tokens

    def sample(
        self, split: str, tokenizer: PreTrainedTokenizerBase, count: int
    ) -> list[tuple[dict[str, Any], list[Document]]]:
        """Return the first examples of a split and their documents, without preparing the whole split.

        Documents above `max_length` are cut, whatever `overlong` is. A warning counts the rows that
        cannot be used.

        Raises:
            UserError: a row cannot be used and `on_error` is stop, or none can.
        """
        preparation = self._preparation(tokenizer)
        examples = preparation.take_examples(self._splits.open(split).entries(), count)
        counts = asdict(preparation.counts)
        if not examples:
            raise dataset_errors.make_empty_split_error(split, self.path, counts)
        if counts["left_out"]:
            log.warning(f"{split}: {format_counts(counts)}")
        if note := self.find_unused_columns(split).note():
            log.warning(note)
        return examples

    def find_unused_columns(self, split: str = "train") -> UnusedColumns:
        """Return the columns from which no field is read, in the first rows of a split."""
        return self._splits.open(split).unused

    def refuse_empty(self, split: str) -> None:
        """Raise a UserError with the counts of the rows of a split that has no example."""
        counts = count_entries(self._splits.open(split).entries(), self.on_error)
        raise dataset_errors.make_empty_split_error(split, self.path, asdict(counts))

    def loader(
        self,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> Loader:
        """Return the batches of a split; see `Loader`. `packing=auto` pads until `use_row_format` is called."""
        pad = tokenizer.pad_token_id
        return Loader(
            self.prepare(split, tokenizer),
            batch_size,
            "none" if self.packing == "auto" else self.packing,
            self.max_length,
            pad=0 if pad is None else pad,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            world=world,
            group=2 if self.pairs else 1,
            reading=self.reading,
        )

    def prompts(self, split: str, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
        """Return the different prompts of a split, each with the references of all its rows."""
        renderer = Renderer(self._rendering, tokenizer)
        prompts: dict[tuple[int, ...], Prompt] = {}
        for example in self.examples(split):
            try:
                ids = renderer.encode_prompt(example)
            except UnusableRow as error:
                if self.on_error == "stop":
                    raise error.to_bad_row(example["origin"]) from error
                continue
            if not ids:
                continue
            prompt = prompts.setdefault(tuple(ids), Prompt(ids, [], example["row"]))
            prompt.references.extend(
                text for text in example["references"] if text not in prompt.references
            )
        return list(prompts.values())

    def prompt_ids(self, example: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Token ids of everything before the answer of an example, as in training.

        Raises:
            UserError: the chat template refuses the conversation.
        """
        try:
            return Renderer(self._rendering, tokenizer).encode_prompt(example)
        except UnusableRow as error:
            raise UserError(f"the conversation {error}", where="data") from error

    def beginning_ids(self, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Token ids of a plain text for the model to continue, as in training."""
        return Renderer(self._rendering, tokenizer).encode_beginning(text)

    @property
    def splits(self) -> list[str]:
        """The splits that are configured."""
        return [s for s in SPLITS if s == "train" or getattr(self, s) is not None]

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the content of `data.json`: sources, counts, hashes, token statistics."""
        first = next(self.examples("train"), None)
        renderer = Renderer(self._rendering, tokenizer)
        statistics = {s: compute_statistics(self.prepare(s, tokenizer)) for s in self.splits}
        return {
            **self._splits.open("train").source.describe(),
            "fingerprint": statistics["train"]["fingerprint"],
            "format": self._splits.open("train").columns.name,
            "packing": self.packing,
            "max_length": self.max_length,
            "template": renderer.hash_template(first) if first else None,
            "splits": statistics,
        }

    def _preparation(
        self,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[RowCounts], None] | None = None,
    ) -> Preparation:
        renderer = Renderer(self._rendering, tokenizer)
        return Preparation(renderer, self.on_error, self.overlong, self.on_lost, progress)
