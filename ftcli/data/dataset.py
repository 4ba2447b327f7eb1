"""The `data` option for text: the rows of a source, rendered, split, tokenised and batched."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ftcli.core.errors import Problems, UserError
from ftcli.data import cache, dataset_errors
from ftcli.data.inspection import UnusedColumns
from ftcli.data.loader import Loader
from ftcli.data.mixture import Mixture
from ftcli.data.preparation import Preparation, PreparationTask, Progress, count_entries
from ftcli.data.render import DATE, Renderer, RenderSettings
from ftcli.data.rows import LocatedRowError, RowError
from ftcli.data.source_report import describe_sources, plan_shares
from ftcli.data.source_settings import EvalSet, TrainingSource, read_settings, read_sources
from ftcli.data.split import Split, SplitEntry, Splits
from ftcli.data.statistics import compute_statistics, format_counts, list_warnings
from ftcli.data.tokens import Document, TokenizedSplit

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
    """Rows of one source or of several, rendered for a tokenizer and given in batches.

    `source_settings` are those of the sources: one with `path`, else those of `sources`.
    """

    path: str | None = None  # asset:e2e, a file, folder or glob, or a hub id
    name: str | None = None  # configuration of a hub data set
    split: str = "train"  # which split of the source is trained on
    revision: str | None = None  # branch, tag or commit of a hub data set
    format: Literal["auto", "chat", "instruction", "preference", "prompt", "text"] = "auto"
    columns: dict[str, str | None] = field(
        default_factory=dict
    )  # field of the format -> column; null leaves the field out
    validation: float | str | None = None  # share held out by prompt, or a path or split
    test: str | None = None  # path or split that is evaluated at the end
    sources: list[TrainingSource] | None = (
        None  # several sources, mixed by weight, in place of path
    )
    rows_per_epoch: int | None = None  # null: as many as all sources have
    eval_sets: dict[str, EvalSet] = field(default_factory=dict)  # name -> rows for evaluation alone
    max_length: int = 1024  # tokens per document, and per bin with packing=bins
    overlong: Literal["truncate", "drop", "error"] = (
        "truncate"  # what to do with documents above max_length
    )
    #: flat: documents concatenated; bins: packed to max_length; none: padded; auto: flat if the model's
    #: losses match those of separate rows
    packing: Literal["auto", "flat", "bins", "none"] = "auto"
    train_on: Literal["assistant", "all"] = "assistant"  # which tokens contribute to the loss
    template: Literal["plain", "chat"] = "plain"  # how prompt and instruction rows are written
    prompt_template: str | None = None  # how plain rows write the prompt; null: "{prompt}\n"
    system: str | None = None  # system message for conversations that have none
    date: str = DATE  # printed by chat templates as today's date
    template_options: dict[str, Any] = field(default_factory=dict)  # variables of the chat template
    on_dropped_content: Literal["refuse", "warn"] = (
        "refuse"  # what to do if the chat template omits content of a row
    )
    pairs: bool = False  # preference rows give both answers, for objectives that compare them
    on_error: Literal["stop", "skip"] = "stop"  # what to do with a row that cannot be used
    limit: int | None = None  # read only the first rows of each training source
    text_unit: Literal["file", "paragraph", "line"] = "file"  # one row of a text file
    cache_dir: str | None = None  # folder of the token cache; ~/.cache/ftcli/tokens when left out

    def __post_init__(self) -> None:
        self.source_settings = read_sources(self)
        self.eval_sets = {
            name: read_settings(EvalSet, value, f"data.eval_sets.{name}")
            for name, value in self.eval_sets.items()
        }
        Problems.raise_if_any(list(dataset_errors.find_contradictions(self)))
        self._rendering = RenderSettings(
            self.max_length,
            self.train_on,
            self.template,
            self.prompt_template,
            self.system,
            self.pairs,
            self.date,
            self.template_options,
        )
        self.document_isolation = "attention"
        self._folders: dict[str, Path] = {}  # by the key of their content
        self._prepared: dict[tuple[Path, ...], TokenizedSplit] = {}
        self._splits = Splits(self)

    def use_batch_layout(
        self, packing: Literal["flat", "bins", "none"], document_isolation: str = "attention"
    ) -> None:
        """Make batches in the layout that `ftcli.models.batch_layout_check` selected for the model."""
        self.packing, self.document_isolation = packing, document_isolation

    def examples(self, split: str = "train") -> Iterator[dict[str, Any]]:
        """Yield the canonical examples of a split, each with `references`, `row` and `origin`.

        Raises:
            UserError: a row cannot be used and `on_error` is stop.
        """
        for entry in self._entries(split):
            if isinstance(entry, LocatedRowError):
                if self.on_error == "stop" and not entry.intended:
                    raise entry
            elif entry is not None:
                yield entry

    def _entries(self, split: str) -> Iterator[SplitEntry]:
        return chain.from_iterable(
            source_split.entries() for source_split in self._splits.open(split)
        )

    def prepare(
        self,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None = None,
    ) -> TokenizedSplit:
        """Return the tokens of a split from the cache; tokenise what of it is not cached.

        Args:
            split: train, validation, test, or the name of a set of `eval_sets`.
            tokenizer: tokenizer of the model.
            progress: called after each chunk that is written.

        Raises:
            UserError: there is no such split, a row cannot be used, or nothing would be learned.
        """
        source_splits = self._splits.open(split)
        folders = tuple(
            self._prepare_source(split, source_split, tokenizer, progress)
            for source_split in source_splits
        )
        tokenized = self._prepared.get(folders)
        if tokenized is None:
            tokenized = TokenizedSplit(*folders, mixture=self._mixture(split, source_splits))
            self._prepared[folders] = tokenized
            for source_split, meta in zip(source_splits, tokenized.metas, strict=True):
                self._report_rows(split, source_split, meta)
        empty = [n for n, size in enumerate(tokenized.sizes) if not size]
        if empty and (split == "train" or not len(tokenized)):
            place = (
                source_splits[empty[0]].source.place.partition("\n")[0]
                if len(source_splits) > 1
                else self.title
            )
            raise dataset_errors.make_empty_split_error(split, place, tokenized.metas[empty[0]])
        return tokenized

    def _prepare_source(
        self,
        split: str,
        source_split: Split,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
    ) -> Path:
        """Return the folder of the cache with the tokens of one source of a split."""
        preparation = self._preparation(tokenizer)
        key = cache.hash_settings(
            preparation.settings(source_split) | {"text_unit": self.text_unit}
        )
        if key in self._folders:
            return self._folders[key]
        if progress is not None:
            preparation.progress = partial(progress, self._make_task(split, source_split))
        folder = cache.find_or_write(
            cache.token_folder(self.cache_dir),
            key,
            lambda writer: preparation.fill(writer, source_split.entries()),
        )
        preparation.check_dropped_content(cache.read_meta(folder))
        self._folders[key] = folder
        return folder

    def _report_rows(self, split: str, source_split: Split, meta: dict[str, Any]) -> None:
        """Warn of rows that were left out, cut or changed, and of columns that are not read."""
        for warning in list_warnings(meta, self._make_task(split, source_split).name):
            log.warning(warning)
        if split == "train" and (note := source_split.unused.note()):
            log.warning(note)

    def _make_task(self, split: str, source_split: Split) -> PreparationTask:
        several = self.sources is not None and bool(source_split.title)
        return PreparationTask(
            f"{split} of {source_split.title}" if several else split, source_split
        )

    def _mixture(self, split: str, source_splits: Sequence[Split]) -> Mixture:
        titles = tuple(source_split.title or split for source_split in source_splits)
        if split != "train":
            return Mixture(titles)
        weights = [source.weight for source in self.source_settings if source.weight is not None]
        return Mixture(titles, tuple(weights) or None, self.rows_per_epoch)

    def sample(
        self, split: str, tokenizer: PreTrainedTokenizerBase, count: int
    ) -> list[tuple[dict[str, Any], list[Document]]]:
        """Return the first examples of each source of a split and their documents, without the others.

        Documents above `max_length` are cut, whatever `overlong` is. A warning counts the rows that
        cannot be used.

        Raises:
            UserError: a row cannot be used and `on_error` is stop, or none can.
        """
        samples = []
        for source_split in self._splits.open(split):
            preparation = self._preparation(tokenizer)
            examples = preparation.take_examples(source_split.entries(), count)
            counts = asdict(preparation.counts)
            if not examples:
                place = source_split.source.place.partition("\n")[0]
                raise dataset_errors.make_empty_split_error(
                    split, place if self.sources else self.title, counts
                )
            if counts["left_out"]:
                name = self._make_task(split, source_split).name
                log.warning(f"{name}: {format_counts(counts)}")
            if note := source_split.unused.note():
                log.warning(note)
            title = source_split.title if self.sources is not None else None
            samples += [(example | {"source": title}, documents) for example, documents in examples]
        return samples

    def find_unused_columns(self, split: str = "train", source: int = 0) -> UnusedColumns:
        """Return the columns from which no field is read, in the first rows of a source of a split."""
        return self._splits.open(split)[source].unused

    def plan_shares(self) -> list[str]:
        """Return one line for each of several sources: its share of an epoch, before a row is tokenised.

        Empty where there is one source. Held-out rows are not counted.
        """
        if self.sources is None:
            return []
        source_splits = self._splits.open("train")
        held_out = self.validation if isinstance(self.validation, float | int) else 0.0
        return plan_shares(source_splits, self._mixture("train", source_splits), held_out)

    def refuse_empty(self, split: str) -> None:
        """Raise a UserError with the counts of the rows of a split that has no example."""
        counts = count_entries(self._entries(split), self.on_error)
        raise dataset_errors.make_empty_split_error(split, self.title, asdict(counts))

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
        """Return the batches of a split; see `Loader`. `packing=auto` pads until `use_batch_layout` is called."""
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
            document_isolation=self.document_isolation,
        )

    def prompts(self, split: str, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
        """Return the different prompts of a split, each with the references of all its rows."""
        renderer = Renderer(self._rendering, tokenizer)
        prompts: dict[tuple[int, ...], Prompt] = {}
        for example in self.examples(split):
            try:
                ids = renderer.encode_prompt(example)
            except RowError as error:
                if self.on_error == "stop":
                    raise error.locate(example["origin"]) from error
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
        except RowError as error:
            raise UserError(f"the conversation {error}", where="data") from error

    def beginning_ids(self, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Token ids of a plain text for the model to continue, as in training."""
        return Renderer(self._rendering, tokenizer).encode_beginning(text)

    @property
    def splits(self) -> list[str]:
        """The splits that are configured, and the sets for evaluation."""
        named = [s for s in SPLITS if s == "train" or getattr(self, s) is not None]
        return named + list(self.eval_sets)

    @property
    def title(self) -> str:
        """The path, or the titles of several sources."""
        return self.path or " + ".join(self.titles)

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the content of `data.json`: sources, counts, hashes, token statistics."""
        first = next(self.examples("train"), None)
        renderer = Renderer(self._rendering, tokenizer)
        tokenized = {split: self.prepare(split, tokenizer) for split in self.splits}
        source_splits, trained = self._splits.open("train"), tokenized["train"]
        return {
            **describe_sources(source_splits, trained.list_shares(2 if self.pairs else 1)),
            "fingerprint": trained.fingerprint,
            "format": " + ".join(
                dict.fromkeys(source_split.columns.format_name for source_split in source_splits)
            ),
            "packing": self.packing,
            "max_length": self.max_length,
            "template": renderer.hash_template(first) if first else None,
            "splits": {
                split: compute_statistics(prepared) for split, prepared in tokenized.items()
            },
        }

    @property
    def titles(self) -> tuple[str, ...]:
        """Names of the sources that are trained on, in the order of their numbers in a batch."""
        return tuple(source.display_name for source in self.source_settings)

    def _preparation(self, tokenizer: PreTrainedTokenizerBase) -> Preparation:
        renderer = Renderer(self._rendering, tokenizer)
        return Preparation(renderer, self.on_error, self.overlong, self.on_dropped_content)
