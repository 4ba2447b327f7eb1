"""A base is trained once from its recipe, and a job starts from its weights."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.config.composition import base_cache_dir
from ftcli.jobs.bases import train_missing_base


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A recipe that trains a model from new weights for two steps."""
    from ftcli.config import recipes_dir

    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    text = (recipes_dir() / "bases" / "llama_mini.yaml").read_text()
    (tmp_path / "book.txt").write_text("the river runs to the sea. " * 400)
    text = text.replace(
        "max_length: 256", f"max_length: 64\n  path: {tmp_path}/book.txt\n  validation: null"
    )
    text = text.replace("max_steps: 1806", "max_steps: 2").replace(
        "warmup_steps: 50", "warmup_steps: 1"
    )
    text = text.replace("batch_size: 32", "batch_size: 2").replace(
        "eval_every: 300", "eval_every: null"
    )
    path = tmp_path / "little.yaml"
    path.write_text(text.replace("- eval: loss", "- eval: none"))
    return path


def test_a_base_is_trained_once_and_named_by_its_config(base, monkeypatch, warm_trials):
    job = compose("qlora_mini", [f"model.from_recipe={base}"])
    validate_and_convert(job)
    place = base_cache_dir()
    assert job.base_job == str(base) and "from_recipe" not in job.config["model"]
    assert job.config["model"]["path"].startswith(f"{place}/little-") and not place.exists()
    train_missing_base(job)
    weights = next(place.glob("little-*/model/model.safetensors"))
    from ftcli.jobs import trial

    monkeypatch.setattr(trial, "complete_job", None)  # a second training would fail
    train_missing_base(compose("qlora_mini", [f"model.from_recipe={base}"]))
    assert weights.exists()
    base.write_text(base.read_text().replace("seed: 0", "seed: 1"))
    other = compose("qlora_mini", [f"model.from_recipe={base}"])
    assert other.config["model"]["path"] != job.config["model"]["path"]
