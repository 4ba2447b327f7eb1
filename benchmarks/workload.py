"""What all programs of the comparison train: one model folder, and the same rows as text and as tokens.

Rows are conversations made of the shipped slice of GSM8K, ragged as chat data are: 65 % are a problem and its
number, 22 % a problem and its worked answer, 13 % several worked problems up to 500 tokens (mean about 160
tokens, a tenth above 360). ftcli makes the tokens and labels from the text with its own template, mask and
order; the other programs get these tokens and no tokenizer, so that all train the same numbers.

    folder/model/        config.json, random weights of a Llama, the tokenizer of the shipped model
    folder/rows.jsonl    conversations
    folder/tokens.jsonl  {"input_ids", "labels"} a row, in the order in which ftcli trains
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "ftcli/assets"
TOKENIZER = ASSETS / "models/llama_mini"
LONGEST = 1024  # no row is longer
JOINED = 500  # tokens up to which problems are joined
SHORT, WORKED = 0.65, 0.22  # shares of rows; the rest are joined
Message = dict[str, str]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, in the terms of transformers' configuration."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int = 4096
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 8192

    @property
    def head_dim(self) -> int:
        """Entries of a head."""
        return self.hidden_size // self.num_attention_heads


SHAPES = {
    "nano": Shape(2, 64, 160, 4, 2),
    "tiny": Shape(4, 256, 704, 8, 4),
    "heavy": Shape(12, 512, 1408, 8, 4),
    "llama3.2-1b": Shape(16, 2048, 8192, 32, 8, 128_256),
    "llama3-8b": Shape(32, 4096, 14_336, 32, 8, 128_256, tie_word_embeddings=False),
}


def write_workload(folder: Path, shape: Shape, dtype: str, rows: int, rows_a_step: int) -> None:
    """Write the model, the conversations and their tokens into a folder."""
    write_model(folder / "model", shape, dtype)
    write_rows(folder / "rows.jsonl", rows)
    write_tokens(folder, rows_a_step)


def write_model(folder: Path, shape: Shape, dtype: str) -> None:
    """Write a Llama of this shape with random weights (seed 0), and the shipped tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**asdict(shape), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    before, config.dtype = torch.get_default_dtype(), dtype
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)


def write_rows(path: Path, count: int) -> None:
    """Write conversations as JSON lines."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))

    def count_tokens(messages: Sequence[Message]) -> int:
        return sum(len(tokenizer.encode(message["content"]).ids) + 5 for message in messages)

    with gzip.open(ASSETS / "data/gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file]
    with open(path, "w", encoding="utf-8") as file:
        for messages in draw_conversations(problems, count, count_tokens):
            file.write(json.dumps({"messages": messages}) + "\n")


def draw_conversations(
    problems: Sequence[dict[str, str]], count: int, count_tokens: Callable[[Sequence[Message]], int]
) -> Iterator[list[Message]]:
    """Yield conversations: a problem and its number, a problem and its solution, or several of these.

    Args:
        problems: rows with `question`, `answer` and `final`.
        count_tokens: function from messages to their number of tokens.
    """
    draw = random.Random(0)
    for _ in range(count):
        kind = draw.random()
        if kind < SHORT:
            yield _turn(draw.choice(problems), "final")
            continue
        messages = _turn(draw.choice(problems), "answer")
        while kind >= SHORT + WORKED:
            longer = messages + _turn(draw.choice(problems), "answer")
            if count_tokens(longer) > JOINED:
                break
            messages = longer
        yield messages


def _turn(problem: dict[str, str], answer: str) -> list[Message]:
    return [
        {"role": "user", "content": problem["question"]},
        {"role": "assistant", "content": problem[answer]},
    ]


def list_overrides(folder: Path, rows_a_step: int) -> list[str]:
    """Return the overrides of `qlora_mini` by which ftcli trains a workload with LoRA of rank 16."""
    return [
        "data=chat", f"data.path={folder}/rows.jsonl", "data.validation=null",
        f"data.max_length={LONGEST}", f"data.cache_dir={folder}/cache", f"model.path={folder}/model",
        "method=lora", "eval=none", "scheduler=constant", f"trainer.batch_size={rows_a_step}",
        "trainer.eval_every=null",
    ]  # fmt: skip


def write_tokens(folder: Path, rows_a_step: int) -> None:
    """Write the rows as ftcli tokenises, masks and orders them."""
    from ftcli.config import compose, validate_and_convert
    from ftcli.data.loader import collate_padded
    from ftcli.run.build import build_run

    overrides = [*list_overrides(folder, rows_a_step), "model.quantization=none"]
    composed = compose("qlora_mini", [*overrides, "data.packing=flat", "trainer.precision=fp32"])
    validate_and_convert(composed)
    run = build_run(composed.config)
    prepared = run.data.prepare("train", run.tokenizer)
    with open(folder / "tokens.jsonl", "w", encoding="utf-8") as file:
        for rows in run.build_loader().list_batch_indices(0):
            batch = collate_padded(prepared, rows, run.tokenizer.pad_token_id)
            for ids, labels, mask in zip(
                batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True
            ):
                row = {"input_ids": ids[mask].tolist(), "labels": labels[mask].tolist()}
                file.write(json.dumps(row) + "\n")


def describe_rows(folder: Path) -> dict[str, float]:
    """Return the number of rows, their mean, 90th percentile and longest length, and the share of labels."""
    with open(folder / "tokens.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    lengths = sorted(len(row["input_ids"]) for row in rows)
    learned = sum(label != -100 for row in rows for label in row["labels"])
    return {
        "rows": len(rows),
        "mean_length": sum(lengths) / len(lengths),
        "p90_length": lengths[int(0.9 * len(lengths))],
        "longest": lengths[-1],
        "label_share": learned / sum(lengths),
    }
