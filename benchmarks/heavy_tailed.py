"""Rows whose lengths have a heavy tail: GSM8K solutions, some of them joined up to 512 tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ftcli.data.dataset import Data

LONGEST = 512
LONG_SHARE = 0.1


def write(path: Path, tokenizer: Any, rows: int, seed: int = 0) -> None:
    """Write prompt/completion rows; `LONG_SHARE` of them are solutions joined up to 512 tokens."""
    columns = {"prompt": "question", "completion": "answer"}
    data = Data(path="asset:gsm8k", format="prompt", columns=columns)
    source = [(e["prompt"], e["completion"]) for e in data.examples("train")]
    chance = random.Random(seed)
    chance.shuffle(source)
    texts = iter(source * 20)
    with open(path, "w", encoding="utf-8") as stream:
        for _ in range(rows):
            prompt, completion = next(texts)
            if chance.random() < LONG_SHARE:
                completion = _lengthened(prompt, completion, texts, tokenizer)
            stream.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def _lengthened(prompt: str, completion: str, texts: Any, tokenizer: Any) -> str:
    for question, answer in texts:
        longer = f"{completion}\n\n{question}\n{answer}"
        if len(tokenizer(f"{prompt}\n{longer}")["input_ids"]) > LONGEST - 4:
            return completion
        completion = longer
    return completion
