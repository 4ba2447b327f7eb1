"""Notes to the user are warnings of the loggers `ftcli.<name>`; one of them can be switched off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Drop the notes of `ftcli.<name>` (`config`, `data`) in the block, where the caller shows them itself."""
    logger = logging.getLogger(f"ftcli.{name}")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
