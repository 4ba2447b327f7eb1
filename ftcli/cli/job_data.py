"""Data and tokenizer of a job, for verbs that need no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftcli.data.dataset import Data


@contextmanager
def open_data(job: str, overrides: Sequence[str]) -> Iterator[tuple[Data, PreTrainedTokenizerBase]]:
    """Yield data and tokenizer of a job; errors in the block get file and line of their key."""
    from ftcli.config import build, compose, validate_and_convert
    from ftcli.config.building import locate_error
    from ftcli.config.composition import substitute_base
    from ftcli.core.errors import UserError

    composed = compose(job, overrides)
    validate_and_convert(composed)
    data = build(composed.config["data"], "data", composed)
    source = build(substitute_base(composed)["model"], "model", composed)
    try:
        yield data, source.load_tokenizer()
    except UserError as error:
        raise locate_error(error, composed) from error
