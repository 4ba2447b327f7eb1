"""Serving: `ftcli serve` against `transformers serve` on the same weights, asked by the same clients.

Both servers are processes of their own, one at a time, with the same number of threads; clients of the
`openai` package ask in parallel for greedy answers of a fixed length at most. Prints requests and
generated tokens a second, and the ratios (ftcli / transformers).

    python benchmarks/serve.py RUN --dtype float32 --continuous

RUN is a run of `method=full`, or any run with the folder of `ftcli merge RUN --to DIR` as `--model`.
Needs `pip install 'ftcli[serve]' openai fastapi`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("The Mill", "Blue Spice", "Giraffe", "The Eagle", "Cotto", "The Punter", "Aromi", "Zizzi")
MORE = ("", "food[French], ", "eatType[coffee shop], priceRange[cheap], ", "familyFriendly[yes], ")
START_SECONDS = 180  # that a server has to load its model
Figures = dict[str, float]


def main() -> None:
    """Measure both servers and print one line of JSON each, then the ratios."""
    options = parse_options()
    folder = find_model(options)
    plain = ["--dtype", options.dtype, "--device", "cpu"]
    commands = {
        "ftcli": [*command("ftcli"), "serve", options.run],
        "transformers": [*command("transformers"), "serve", str(folder), *plain],
    }
    if options.continuous:
        commands["transformers, continuous batching"] = [
            *commands["transformers"], "--continuous-batching", "--attn-implementation", "sdpa",
        ]  # fmt: skip
    results: dict[str, Figures] = {}
    for name, words in commands.items():
        with running(words, options.threads) as url:
            results[name] = measure(url, options)
        print(json.dumps({"server": name} | results[name]), flush=True)
    for name in list(commands)[1:]:
        ratios = {key: round(results["ftcli"][key] / results[name][key], 2) for key in RATIOS}
        print(json.dumps({"ratio": f"ftcli / {name}"} | ratios))


RATIOS = ("requests_per_s", "tokens_per_s")


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="run directory")
    parser.add_argument("--model", help="folder of the same weights for transformers; RUN/model")
    parser.add_argument("--dtype", default="float32", help="of transformers' server")
    parser.add_argument("--clients", type=int, default=32, help="requests under way at a time")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=40, help="longest answer")
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--continuous", action="store_true", help="continuous batching too")
    return parser.parse_args()


def find_model(options: argparse.Namespace) -> Path:
    """Return the folder of the weights for transformers.

    Raises:
        SystemExit: there is none.
    """
    folder = Path(options.model or Path(options.run) / "model").resolve()
    if not (folder / "config.json").is_file():
        raise SystemExit(f"{folder} is no model. Fix: ftcli merge RUN --to DIR, then --model DIR")
    return folder


def command(program: str) -> list[str]:
    """Return the words that start a program of this environment."""
    return [str(Path(sys.executable).parent / program)]


@contextmanager
def running(words: list[str], threads: int) -> Iterator[str]:
    """Run a server on a free port; yields the address of its API once it lists its models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*words, "--port", str(port)],
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), opener.open(f"{url}/models", timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{' '.join(map(str, process.args))} does not answer")  # type: ignore[arg-type]


def measure(url: str, options: argparse.Namespace) -> Figures:
    """Return requests and tokens a second, and the longest time that a request took in seconds."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    known = [model.id for model in client.models.list().data]
    model = known[0] if known else str(find_model(options))
    prompts = [
        f"name[{NAMES[i % len(NAMES)]}], {MORE[i // len(NAMES) % len(MORE)]}area[riverside]\n"
        for i in range(options.requests)
    ]

    def ask(prompt: str) -> tuple[int, float]:
        start = time.perf_counter()
        answer: Any = client.completions.create(
            model=model, prompt=prompt, max_tokens=options.tokens, temperature=0
        )
        return answer.usage.completion_tokens, time.perf_counter() - start

    ask(prompts[0])  # what happens once
    start = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        answers = list(pool.map(ask, prompts))
    seconds = time.perf_counter() - start
    tokens = sum(count for count, _ in answers)
    return {
        "requests_per_s": round(len(answers) / seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "longest_s": round(max(waited for _, waited in answers), 2),
        "tokens": tokens,
    }


if __name__ == "__main__":
    main()
