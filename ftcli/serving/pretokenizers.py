"""The name under which llama.cpp knows the pre-tokenizer of a tokenizer.

llama.cpp's converter recognises a tokenizer by the token ids of one text, which works for published
vocabularies only. Many others split text in the same way; the `pre_tokenizer` of tokenizer.json shows
that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Steps of a pre_tokenizer, as `steps` writes them, and llama.cpp's name (src/llama-vocab.cpp).
NAMES = {
    ("bytes, words",): "gpt-2",
    ("digits", "bytes, words"): "smollm",
    (f"split {_WORDS}\\p{{N}}{{1,3}}{_REST}", "bytes"): "llama-bpe",
    (f"split {_WORDS}\\p{{N}}{_REST}", "bytes"): "qwen2",
}


def find_llama_name(folder: Path) -> str:
    """Return `tokenizer.ggml.pre` for the tokenizer.json in a folder.

    Raises:
        UserError: llama.cpp has no name for it.
    """
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found_steps = list_steps(content.get("pre_tokenizer") or {})
    if found_steps not in NAMES or content.get("normalizer"):
        raise UserError(
            f"llama.cpp knows no pre-tokenizer that splits text like this one ({', '.join(found_steps)}).",
            where=str(folder / "tokenizer.json"),
            fix="ftcli export RUN --to hf, for a program that reads tokenizer.json",
        )
    return NAMES[found_steps]


def list_steps(node: dict[str, Any]) -> tuple[str, ...]:
    """Return the steps of a pre_tokenizer of tokenizer.json in order, without irrelevant settings."""
    kind = node.get("type")
    if kind == "Sequence":
        return tuple(step for inner in node["pretokenizers"] for step in list_steps(inner))
    if kind == "Digits" and node["individual_digits"]:
        return ("digits",)
    if kind == "ByteLevel" and not node["add_prefix_space"]:
        return ("bytes, words",) if node.get("use_regex", True) else ("bytes",)
    isolated = kind == "Split" and node["behavior"] == "Isolated" and not node.get("invert")
    if isolated and "Regex" in node["pattern"]:
        return (f"split {node['pattern']['Regex']}",)
    return (json.dumps(node),)
