"""The recipe of the shipped base learns a language from scratch, at its smallest scale."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ftcli.config import compose, recipes_dir, validate_and_convert
from ftcli.jobs.train import train
from ftcli.run.build import build_run

WORDS = ["the river", "runs", "to the sea", "and the wind", "comes", "from the hills", "at night"]


def text(path: Path) -> None:
    """A small language with an order in it: each phrase says which one follows."""
    lines = (" ".join(WORDS[(i + j) % len(WORDS)] for j in range(5)) for i in range(3000))
    path.write_text(".\n".join(lines))


@pytest.mark.slow
def test_llama_mini_learns_from_a_folder_of_text(tmp_path):
    (tmp_path / "corpus").mkdir()
    text(tmp_path / "corpus" / "book.txt")
    job = recipes_dir() / "bases" / "llama_mini.yaml"
    options = [
        f"data.path={tmp_path}/corpus", "trainer.max_steps=12", "scheduler.warmup_steps=2",
        "trainer.batch_size=2", f"run.dir={tmp_path}/runs", "trainer.eval_every=null",
    ]  # fmt: skip
    composed = compose(job, options)
    validate_and_convert(composed)
    result = train(composed)
    before, after = result["metrics_before"]["eval.loss"], result["metrics"]["eval.loss"]
    assert abs(before - math.log(4096)) < 0.5, "new weights know nothing"
    assert after < before - 2
    assert result["trainable_parameters"] == result["total_parameters"] == 6_951_168
    folder = Path(result["run"]) / "model"
    assert (folder / "model.safetensors").exists() and (folder / "tokenizer.json").exists()
    again = build_run(compose("qlora_mini", [f"model.path={folder}"]).config)
    assert again.model_source.load_tokenizer().eos_token_id == 2


def test_new_weights_follow_the_seed():
    composed = compose(recipes_dir() / "bases" / "llama_mini.yaml", ["data.path=nowhere"])
    one, two = (build_run(composed.config).load_model().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    seeded = build_run(compose(composed.job_file, ["data.path=nowhere", "seed=1"]).config)
    other = seeded.load_model().state_dict()
    assert not torch.equal(one["model.norm.weight"], 0 * one["model.norm.weight"])
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
