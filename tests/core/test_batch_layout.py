"""The layout of proof.json is read as it was written, by this version and by 0.1.0."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ftcli.core.batch_layout import BatchLayout


@pytest.mark.parametrize(
    ("reading", "isolation"),
    [("plain", "attention"), ("reset", "reset_state"), ("alone", "one_row_per_forward")],
)
def test_the_record_of_an_old_run_gives_the_same_layout(reading, isolation):
    record = {"packing": "none", "attention": "library", "reading": reading, "reason": "windows"}
    layout = BatchLayout("none", "library", isolation, "windows")
    assert BatchLayout.from_record(record) == layout
    assert BatchLayout.from_record(asdict(layout)) == layout
