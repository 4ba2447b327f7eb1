"""Finished runs of both kinds, trained once a session in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

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
