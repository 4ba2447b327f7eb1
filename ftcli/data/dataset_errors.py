"""Errors in the configuration of a `data` option, and of splits without a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data.source_settings import find_mistakes
from ftcli.data.statistics import format_counts

if TYPE_CHECKING:
    from ftcli.data.dataset import Data


def find_contradictions(data: Data) -> Iterator[UserError]:
    """Yield the errors of a configuration that show before a row is read."""
    if isinstance(data.validation, float | int) and not 0 < data.validation < 1:
        yield UserError(
            f"a share of {data.validation} of the rows cannot be held out.",
            where="data.validation",
            fix="give a number between 0 and 1, a path or split, or null",
        )
    for key, least in (("max_length", 2), ("limit", 1)):
        value = getattr(data, key)
        if value is not None and value < least:
            yield UserError(
                f"{value} is too small.", f"data.{key}", f"data.{key}={least} is the least"
            )
    yield from find_mistakes(data)
    formats = [source.format for source in data.source_settings]
    plain = [name for name in formats if name in ("prompt", "instruction", "text")]
    if data.system is not None and data.template == "plain" and plain:
        yield UserError(
            f"plain rows of format={plain[0]} cannot have a system message.",
            where="data.system",
            fix="set data.template=chat, or write it into data.prompt_template",
        )
    if data.prompt_template is not None and data.template == "chat":
        yield UserError(
            "the chat template writes the prompt, so that this one would not be used.",
            where="data.prompt_template",
            fix="set data.template=plain or data.prompt_template=null",
        )
    single = [name for name in formats if name not in ("auto", "preference")]
    if data.pairs and single:
        yield UserError(
            f"rows of format={single[0]} have no rejected answer.",
            where="data.pairs",
            fix="data.format=preference, or data.pairs=false",
        )
    if data.pairs and data.train_on == "all":
        yield UserError(
            "data.pairs=true compares the two answers; the prompt, which both share, cannot be learned.",
            where="data.train_on",
            fix="data.train_on=assistant",
        )


def missing_split_error(split: str) -> UserError:
    """Error for a split that is not configured."""
    choices = "a share such as 0.05, a path or a split" if split == "validation" else "a path"
    return UserError(
        f"the data have no split '{split}'.",
        where=f"data.{split}",
        fix=f"set data.{split} to {choices}",
    )


def make_empty_split_error(split: str, path: str, counts: Mapping[str, Any]) -> UserError:
    """Error for a split without a row to learn from.

    Args:
        counts: counts of its rows, as in `meta.json`.
    """
    where = "data.validation" if split == "validation" else "data.path"
    what = f"the split '{split}' of {path} is empty: {format_counts(counts)}."
    left_out = counts["left_out"]
    if left_out and set(left_out) == {"not to learn"}:
        first = counts["left_out_rows"]["not to learn"][0]
        return UserError(
            f"{what} First: {first}",
            where=where,
            fix="add rows with good answers; data.columns.label=null ignores a label",
        )
    return UserError(
        what,
        where=where,
        fix="check the file, data.limit and data.max_length; a share of a small file needs at least "
        "two different prompts, otherwise set data.validation=null",
    )
