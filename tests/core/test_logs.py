"""A silenced logger logs again after the block, also when the block fails."""

from __future__ import annotations

import logging

import pytest

from ftcli.core.logs import silence_logger


def test_a_logger_is_silent_in_the_block_only(caplog):
    log = logging.getLogger("ftcli.data")
    with pytest.raises(ValueError), silence_logger("data"):
        log.warning("unheard")
        raise ValueError
    log.warning("heard")
    assert "heard" in caplog.messages and "unheard" not in caplog.messages
