"""A model that knows two answers by heart, and llama.cpp to ask the same of its GGUF."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ANSWERS = {"say one": "The first answer.", "say two": "It has two words in it, or more."}

#: In a process of its own: llama.cpp ends the process it is in where it does not like a file.
LLAMA = """
import json, sys, xllamacpp
model, lora, context = sys.argv[1:4]
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.fit_params = model, int(context), 1, False, False
p.cpuparams.n_threads = 1
if lora:
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
server = xllamacpp.Server(p)
for body in json.load(sys.stdin):
    ask = server.handle_chat_completions if "messages" in body else server.handle_completions
    print(json.dumps(ask(body | {"temperature": 0.0, "cache_prompt": False})))
"""


@pytest.fixture(scope="session")
def answers() -> dict[str, str]:
    """What the conversations teach, by prompt."""
    return ANSWERS


@pytest.fixture(scope="session")
def talk(train_tiny, tmp_path_factory) -> Callable[..., Path]:
    """Train on the two conversations until they are known by heart; further overrides are taken."""
    file = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    turns = [
        [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        for ask, answer in ANSWERS.items()
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns * 8))

    def train(*overrides: str) -> Path:
        return train_tiny(
            "run.name=talks", "eval=none", f"data.path={file}", "data.format=chat",
            "~data.columns", "data.validation=null", "data.test=null", "model.quantization=none",
            "method=lora", "trainer.max_steps=40", "optimizer.lr=5e-3", "scheduler=constant",
            *overrides,
        )  # fmt: skip

    return train


@pytest.fixture(scope="session")
def tuned(talk) -> Path:
    """A run of `talk`: LoRA on the shipped model."""
    return talk()


@pytest.fixture(scope="session")
def llama() -> Callable[..., list[dict[str, Any]]]:
    """llama.cpp's answers to bodies of requests, from a GGUF and perhaps a LoRA."""
    pytest.importorskip("xllamacpp", reason="pip install 'ftcli[gguf]'")

    def ask(model: Any, bodies: list[dict[str, Any]], lora: Any = "", context: int = 512) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", LLAMA, str(model), str(lora), str(context)],
            input=json.dumps(bodies), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    return ask
