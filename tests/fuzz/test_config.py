"""Whatever a configuration or a command line holds: it works, or one message says what, where and what to do.

`make fuzz N=1000` runs the campaign; a number that failed is repeated with
`pytest -m slow tests/fuzz/test_config.py -k campaign` and FTCLI_FUZZ_ONLY=the number (several by comma).
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ftcli.cli.app import run
from ftcli.core import errors
from tests.fuzz.config_cases import Case, case, deep, lay, mild

FAST = 50
SECONDS = 120  # a case that takes longer hangs
BUGS = ("Traceback", "please report it", "TimeoutError")


@pytest.fixture
def nothing_starts(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything up to the first step of training is real, and no network is asked."""
    import huggingface_hub.constants

    from ftcli.reproduce.reproduction import Reproduction

    def started(*_: object, **__: object) -> None:
        raise typer.Exit(errors.OK)

    monkeypatch.setattr("ftcli.jobs.train.train", started)
    monkeypatch.setattr("ftcli.jobs.launch.launch", started)
    monkeypatch.setattr("ftcli.jobs.stages.start_stages", started)
    monkeypatch.setattr("ftcli.sweeps.composition.write_trial", started)
    monkeypatch.setattr("ftcli.sweeps.sweep._run_sweep", started)
    monkeypatch.setattr(Reproduction, "run", started)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("nothing_starts")
def test_a_sample(tmp_path, monkeypatch):
    found = [_tried(case(seed), tmp_path / str(seed), monkeypatch) for seed in range(FAST)]
    assert _broken(found) == []
    assert {"accepted", "refused"} <= {status for _, status, _ in found}


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("nothing_starts")
def test_the_campaign(tmp_path, monkeypatch):
    only = os.environ.get("FTCLI_FUZZ_ONLY")
    seeds = (
        [int(number) for number in only.split(",")]
        if only
        else range(int(os.environ.get("FTCLI_FUZZ", "200")))
    )
    found = []
    for seed in seeds:
        made = (mild, deep, case, case)[seed % 4](seed)
        found.append((seed, *_tried(made, tmp_path / str(seed), monkeypatch)[1:]))
        if found[-1][-1]:
            print(f"\n{seed}: {found[-1][-1]}", flush=True)
    print(f"\n{len(found)} configurations: {dict(Counter(status for _, status, _ in found))}")
    assert len(found) == len(seeds) and _broken(found) == []


def _broken(found: list[tuple[int, str, str]]) -> list[str]:
    """The promises that were broken, by number."""
    return [f"{seed}: {why}" for seed, _, why in found if why]


def _tried(made: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Number, outcome, and what is wrong with it: nothing if it is as promised."""
    folder.mkdir()
    lay(made, folder)
    monkeypatch.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limit():
        try:
            status = run(made.words)
        except BaseException as error:  # noqa: BLE001 - whatever comes through is what is looked for
            return int(folder.name), "escaped", f"{made}: {type(error).__name__}: {error}"
    text = err.getvalue()
    return int(folder.name), _outcome(status), _complaint(made, status, text, out.getvalue())


def _outcome(status: int) -> str:
    return {errors.OK: "accepted", errors.USER: "refused"}.get(status, f"status {status}")


def _complaint(made: Case, status: int, text: str, out: str) -> str:
    if any(sign in text + out for sign in BUGS):
        return f"{made}: {text}"
    if status == errors.OK:
        return ""
    if status != errors.USER:
        return f"{made}: status {status}: {text}"
    if "→" not in text + out:
        return f"{made}: no fix: {text!r}"
    return "" if text.strip() or "✗" in out else f"{made}: no message"


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
