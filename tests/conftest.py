"""What tests of several rooms need: a working folder, and real runs trained once a session in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("FTCLI_QUIET", "1")
# Tiny tensors gain nothing from threads, and threads of several workers wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# float32 on every machine: left alone, precision is what the machine is fast at
TINY = (
    "model.dtype=float32", "trainer.precision=fp32",
    "data.limit=64", "data.validation=0.1", "optimizer.lr=1e-3",
    "trainer.max_steps=3", "trainer.batch_size=8", "trainer.log_every=1",
)  # fmt: skip
EVALUATION = ("eval.generation.limit=4", "eval.generation.max_new_tokens=8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an empty folder of user configs."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FTCLI_CONFIGS", str(tmp_path / "user"))
    for name in ("FTCLI_DEBUG", "FTCLI_TRUST"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def train_tiny(tmp_path_factory) -> Callable[..., Path]:
    """Train the packaged job for three steps on 64 rows, with further overrides; the run's folder."""
    from ftcli.config import compose, validate_and_convert
    from ftcli.jobs.train import train

    root = tmp_path_factory.mktemp("runs")

    def run(*overrides: str) -> Path:
        places = (f"run.dir={root / 'runs'}", f"data.cache_dir={root / 'tokens'}")
        composed = compose("qlora_mini", [*TINY, *places, *overrides])
        validate_and_convert(composed)
        return Path(train(composed)["run"])

    return run


@pytest.fixture(scope="session")
def trained_run(train_tiny) -> Path:
    """A finished run: LoRA of rank 4 on the shipped Llama in nf4, judged before and after."""
    return train_tiny("run.name=tiny", "method.r=4", *EVALUATION)


@pytest.fixture(autouse=True, scope="session")
def empty_pngs() -> Iterator[None]:
    """Plots of runs are built, but their PNGs are empty: drawing them is a sixth of what a tiny run takes."""
    from ftcli.run import plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_save_png", lambda figure, path: path.touch())
        yield


@pytest.fixture
def warm_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are trained in processes that begin with the libraries imported."""
    from ftcli.jobs import trial
    from tests.warm_process import run_trial

    monkeypatch.setattr(trial, "subprocess", SimpleNamespace(run=run_trial))


PLAIN = ("model.quantization=none", "eval.generation=null", "eval.loss.limit=8")


@pytest.fixture(scope="session")
def lora_run(train_tiny) -> Path:
    """A LoRA of rank 16 on plain float32 weights."""
    return train_tiny("run.name=lora16", "method=lora", "method.r=16", *PLAIN)


@pytest.fixture(scope="session")
def full_run(train_tiny) -> Path:
    """All weights, float32; its base ships in bfloat16."""
    return train_tiny("run.name=full", "method=full", *PLAIN)


@pytest.fixture(scope="session")
def other_run(train_tiny) -> Path:
    """The same with another rate and order of rows."""
    return train_tiny("run.name=other", "method=full", "seed=1", "optimizer.lr=3e-4", *PLAIN)
