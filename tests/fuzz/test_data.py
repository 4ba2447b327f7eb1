"""Whatever a data file holds: it is trained on, every row of it accounted for, or one message says file, row and fix.

`make fuzz N=1000` runs the campaign.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import ftcli
from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.rows import LocatedRowError, RawRow
from ftcli.data.sources import find_source
from ftcli.data.statistics import compute_statistics, format_counts
from tests.fuzz.data_files import DataFile, data_files

MODEL = Path(ftcli.__file__).parent / "assets" / "models" / "llama_mini"
COMMON = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = int(os.environ.get("FTCLI_FUZZ", "200"))
COMMAND_EVERY = 40  # of the campaign, one in so many goes through the commands as well
REFUSED = "refused"
STATUSES = {True: {2}, False: {0}, None: {0, 1, 2}}  # of check, by whether a file has to be refused
MOST = 4_000  # characters of a message


class Enough(Exception):
    """The campaign has seen as many different files as were asked for."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file into a folder that is empty each time; its path. Nothing has to survive a crash."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    folder = tmp_path / "data"

    def write(file: DataFile) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / file.name).write_bytes(file.data)
        return folder / file.name

    return write


@settings(COMMON, max_examples=100)
@given(data_files())
def test_every_row_is_read_or_named(lay, file):
    found = _read(file, lay(file))
    assert found in (REFUSED, file.rows) or file.rows is None


@settings(COMMON, max_examples=60)
@given(data_files())
def test_every_row_is_trained_on_or_counted(lay, tokenizer, file):
    refused = _prepared(file, lay(file), tokenizer) == REFUSED
    assert file.refusal in (None, refused)


@settings(COMMON, max_examples=4, phases=[Phase.generate])
@given(data_files())
def test_the_commands_end_in_a_result_or_in_one_message(lay, tmp_path, monkeypatch, file):
    assert _commanded(file, lay(file), monkeypatch) in STATUSES[file.refusal]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_campaign_of_data_files(lay, tokenizer, monkeypatch, tmp_path):
    seen: dict[tuple[str, bytes], tuple[str, str]] = {}

    @settings(COMMON, max_examples=20 * MANY, phases=[Phase.generate])
    @given(data_files())
    def campaign(file: DataFile) -> None:
        if len(seen) == MANY:
            raise Enough
        if (file.name, file.data) in seen:
            return
        path = lay(file)
        assert _read(file, path) in (REFUSED, file.rows) or file.rows is None
        outcome = _prepared(file, path, tokenizer)
        if len(seen) % COMMAND_EVERY == 0:
            assert _commanded(file, path, monkeypatch) in STATUSES[file.refusal]
        seen[file.name, file.data] = (file.kind, outcome)

    with contextlib.suppress(Enough):
        campaign()
    table = Counter(seen.values())
    print(f"\n{len(seen)} different data files")
    for (kind, outcome), count in sorted(table.items()):
        print(f"  {kind:8} {outcome:24} {count:5}")
    assert len(seen) == MANY


def _read(file: DataFile, path: Path) -> int | str:
    """The reader alone, sound rows unchanged and in order: how many it finds, bad ones too."""
    unit = file.settings.get("text_unit", "file")
    try:
        found = list(find_source(str(path), text_unit=unit).rows())
    except UserError as error:
        _is_a_message(error, path)
        assert file.refusal is not False or isinstance(error, LocatedRowError), f"refused: {error}"
        return REFUSED
    assert not (file.refusal and found), f"{file.defect}: not noticed"
    assert len({row.origin for row in found}) == len(found), "two rows at one place"
    rows = iter(row.values for row in found if isinstance(row, RawRow))
    for wanted in file.fit:
        assert any(all(row.get(k) == v for k, v in wanted.items()) for row in rows), wanted
    for row in found:
        if isinstance(row, LocatedRowError):
            _is_a_message(row, path)
    return len(found)


def _prepared(file: DataFile, path: Path, tokenizer: Any) -> str:
    """Preparation that stops at a bad row, and one that leaves it out; what became of the file."""
    stopped = _prepare(file, path, tokenizer, "stop")
    skipped = _prepare(file, path, tokenizer, "skip")
    if isinstance(skipped, str):
        assert isinstance(stopped, str)
        return REFUSED
    left_out = sum(skipped["left_out"].values())
    if skipped["skipped"]:
        assert isinstance(stopped, str), "a bad row did not stop the run"
    else:
        assert not isinstance(stopped, str), stopped
    return "trained, rows left out" if left_out else "trained whole"


def _prepare(file: DataFile, path: Path, tokenizer: Any, on_error: Any) -> dict[str, Any] | str:
    """What `data.json` would keep; the message where the file is refused."""
    cache = str(path.parent.parent / "cache" / on_error)
    shutil.rmtree(cache, ignore_errors=True)
    with _notes() as notes:
        try:
            data = Data(str(path), on_error=on_error, cache_dir=cache, **file.settings)
            kept = compute_statistics(data.prepare("train", tokenizer))
        except UserError as error:
            _is_a_message(error, path)
            if on_error == "skip":
                assert file.refusal is not False, f"refused: {error}"
            return str(error)
    assert not file.refusal, f"{file.defect}: not noticed"
    tokens = data.prepare("train", tokenizer)
    left_out = sum(kept["left_out"].values())
    assert kept["read"] == kept["used"] + left_out and not kept["other_split"]
    if file.rows is not None:
        assert kept["read"] == file.rows
    assert kept["used"] >= len(file.fit)
    assert len({tokens.origin(i) for i in range(len(tokens))}) == kept["used"]
    named = [row for rows in kept["left_out_rows"].values() for row in rows]
    assert all(str(path) in row for row in named)
    assert len(named) == sum(min(count, 5) for count in kept["left_out"].values())
    assert format_counts(tokens.meta) in tokens.summary() or not left_out
    assert not left_out or any(named[0] in note or "left out" in note for note in notes)
    return kept


@contextlib.contextmanager
def _notes() -> Iterator[list[str]]:
    """What preparation tells the user while the block runs."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("ftcli.data")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _commanded(file: DataFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`check` and `preview` of the file, as typed; the exit status of `check`.

    `preview` reads no further than the rows it shows: what is broken behind them it does not meet.
    """
    from ftcli.cli.app import run

    statuses = {}

    monkeypatch.chdir(path.parent.parent)
    monkeypatch.setenv("FTCLI_CACHE", str(path.parent.parent / "cache"))
    values = {"path": path, "validation": "null", **file.settings, "on_error": "skip"}
    words = [
        f"data.{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in values.items()
    ]
    for verb in ("check", "preview"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = run([verb, "qlora_mini", "data=prompt", *words])
        shown = said.getvalue()
        statuses[verb] = status
        assert "Traceback" not in shown and "please report it" not in shown, shown
        joined = "".join(shown.split())
        if verb == "check" and not status:
            assert "rowsread:" in joined, shown
        if status:
            assert file.name in joined and "→" in shown, shown
    assert statuses["preview"] in STATUSES[file.refusal] | {0}
    return statuses["check"]


def _is_a_message(error: UserError, path: Path) -> None:
    """What, where and how to fix it, in characters that every terminal shows."""
    said = str(error)
    assert str(path) in said, f"no file: {said}"
    assert error.fix, f"no fix: {said}"
    assert len(said) < MOST and all(c.isprintable() or c == "\n" for c in said), said
