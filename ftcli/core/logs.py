"""Notes to the user are warnings of the loggers `ftcli.<room>`; this keeps one of them silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence_logger(room: str) -> Iterator[None]:
    """No notes of a room (`config`, `data`) inside the block: the caller says them in its own way."""
    logger = logging.getLogger(f"ftcli.{room}")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
