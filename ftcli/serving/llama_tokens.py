"""`python -m ftcli.serving.llama_tokens FILE.gguf`: token ids that llama.cpp gives to texts.

Reads a JSON list of texts from stdin and writes a JSON list of ids to stdout. It runs as a separate
process, since llama.cpp ends the process where it cannot read a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.core.errors import FAILED, UserError

#: Texts that tokenizers split differently: digits, contractions, blanks, scripts.
HARD_TEXTS = (
    "In 1999 it cost 12,345.67 $ (3 x 33 = 99); v2.10.3",
    "I'll say we've DON'T they'RE 'quoted' it's  two  blanks",
    "line\n\n\n  indented\n\ttab \r\n end   ",
    "Überraschung Größe naïve Ελληνικά русский язык 中文字符 日本語テキスト ไทย हिन्दी العربية",
    "x=[1,2]; if (a!=b) {return -1;} // ok?! ... --- ###",
)
BATCH = 200  # tokens of the vocabulary in one text


def check_tokens(file: Path, tokenizer: Any) -> str | None:
    """Return a text that llama.cpp and the tokenizer split differently; None where there is none.

    Compared are hard texts and the decoded vocabulary of the tokenizer.

    Raises:
        UserError: llama.cpp cannot load the file.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ids = [token for token in sorted(tokenizer.get_vocab().values()) if token not in special]
    read = [tokenizer.decode(ids[i : i + BATCH]) for i in range(0, len(ids), BATCH)]
    texts = [*HARD_TEXTS, *read]
    theirs = tokenize(file, texts)
    for text, llama_ids in zip(texts, theirs, strict=True):
        own_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if own_ids != llama_ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(own_ids, llama_ids, strict=False)) if a != b), 0
            )
            return repr(tokenizer.decode(own_ids[max(0, at - 2) : at + 6]))
    return None


def tokenize(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text by llama.cpp.

    Raises:
        UserError: llama.cpp cannot load the file.
    """
    command = [sys.executable, "-m", __name__, str(file)]
    done = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        why = lines[0].strip() if lines else f"status {done.returncode}"
        raise UserError(f"llama.cpp cannot open what was written: {why}", str(file), code=FAILED)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Tokenize the texts of stdin with the file named on the command line."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 64
    parameters.n_gpu_layers = 0
    parameters.warmup = parameters.fit_params = False
    server = xllamacpp.Server(parameters)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # the server runs on this machine
    token_ids = []
    for text in json.load(sys.stdin):
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps({"content": text, "add_special": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with opener.open(request) as answer:
            token_ids.append(json.load(answer)["tokens"])
    print(json.dumps(token_ids))


if __name__ == "__main__":
    main()
