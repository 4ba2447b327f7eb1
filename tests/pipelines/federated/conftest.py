"""A language model of 0.15M parameters and a job of federated rounds on it, seconds long."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
JOB = (
    "method=full", "~model.quantization", "~model.double_quant", "model.tokenizer=asset:llama_mini",
    "model.weights=random", "model.dtype=float32", "trainer.precision=fp32",
    "data=mr", "data.limit=40", "data.validation=0.2", "data.test=null", "objective=label_words",
    "eval=label_words", "eval.label_words.split=validation", "scheduler=constant", "scheduler.warmup_ratio=0",
    "pipeline=fedkseed", "pipeline.clients=3", "pipeline.local_steps=3", "trainer.max_steps=9",
    "trainer.batch_size=2", "trainer.eval_every=null",
)  # fmt: skip
#: The optimizer, unless a test takes another.
KSEED = ("optimizer=kseed", "optimizer.lr=1e-3", "optimizer.eps=1e-3", "optimizer.pool=64")


@pytest.fixture(scope="session")
def federated_job(tmp_path_factory) -> Callable[..., Any]:
    """Compose and check the job with further overrides."""
    from ftcli.config import compose, validate_and_convert

    root = tmp_path_factory.mktemp("federated")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text(json.dumps(CONFIG))
    places = (
        f"model.path={root / 'model'}", f"run.dir={root / 'runs'}", f"data.cache_dir={root / 'tokens'}"
    )  # fmt: skip

    def made(*overrides: str) -> Any:
        optimizer = () if any(o.startswith("optimizer=") for o in overrides) else KSEED
        composed = compose("qlora_mini", [*JOB, *optimizer, *places, *overrides])
        validate_and_convert(composed)
        return composed

    return made


@pytest.fixture(scope="session")
def federated_run(federated_job) -> Path:
    """The folder of a finished run of three rounds."""
    from ftcli.jobs.train import train

    return Path(train(federated_job())["run"])
