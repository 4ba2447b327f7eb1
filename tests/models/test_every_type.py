"""Every causal-LM type of transformers is trained right, or refused by one message.

The sample holds one type of each kind of trouble; all types take some minutes (slow).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import models_page, zoo
from .every_type import examine

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LEAST = 120  # types that can be built
#: sinks, softcaps, recurrent state, convolutions, chunks, additive masks, scaled logits, experts in
#: stacks of each layout, refused names, shared weights.
SAMPLE = (
    "llama", "gpt2", "gpt_oss", "gemma2", "qwen3_next", "mamba2", "falcon_h1", "nemotron_h", "lfm2",
    "llama4_text", "phimoe", "bloom", "falcon", "hyperclovax", "granitemoehybrid", "deepseek_v3",
    "jetmoe", "jamba", "zamba", "minicpm3",
)  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_sample_is_right_or_refused(kind, tmp_path):
    result = examine(kind, tmp_path)
    assert not result.reason
    assert result.faults == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in zoo.types() if k not in zoo.NOT_BUILT])
def test_every_type_is_right_or_refused(kind, tmp_path):
    result = examine(kind, tmp_path)
    if result.reason:
        pytest.skip(result.reason)
    assert result.faults == {}


def test_the_page_names_every_type_once():
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    named = [line.split("|")[1].split()[0] for line in rows]
    named = [name for name in named if name not in ("type", "---")]
    assert sorted(named) == sorted(zoo.types())


def test_the_page_has_the_columns_and_packages_of_its_writer():
    text = PAGE.read_text(encoding="utf-8")
    assert "| " + " | ".join(models_page.COLUMNS) + " |" in text
    assert all(f"{name} " in text for name in models_page.PACKAGES)
    built = sum(line.count("|") == len(models_page.COLUMNS) + 1 for line in text.splitlines()) - 2
    assert built >= LEAST
