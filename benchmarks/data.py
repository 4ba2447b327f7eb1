"""Preparation of data: ftcli's token cache against `datasets.map` with one process.

Same file, same tokenizer, same work: a plain template, prompt and answer tokenised apart, the end of text
behind the answer, and a mask of what is learned. Each measurement is a process of its own, with empty
caches; time counts from the file to tokens that can be read, without imports. `datasets` is measured
twice: batches of 1,000 rows for each call of the function, and one row. Peak memory is the resident set
of the process (VmHWM), of which the part above the imports is shown too. Processor time is in
microseconds a row; on a machine that others use it says more than rows a second.

    python benchmarks/data.py --rows 10000 100000 1000000 --out build/data.json
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peers.meter import read_status
from side_by_side import ROOT, describe_machine
from table import format_result

Record = dict[str, Any]
PEERS = ("datasets", "datasets by row")
COLUMNS = (
    "rows", "way", "rows_s", "ratio", "cpu_us", "cpu_ratio", "peak_mb", "rise_mb", "again_s",
)  # fmt: skip
TEMPLATE = "{prompt}\n"


def write_rows(path: Path, count: int) -> None:
    """Write `count` different rows of prompt and completion, as JSON lines or parquet by the suffix."""
    draw = random.Random(0)
    with gzip.open(ROOT / "ftcli/assets/data/e2e/train.jsonl.gz", "rt", encoding="utf-8") as file:
        known = [json.loads(line) for line in file]

    def rows() -> Any:
        for number in range(count):
            row = draw.choice(known)
            prompt = ", ".join(row["mr"].split(", ")[:2])
            yield {"prompt": f"{prompt}, order[{number}]", "completion": row["ref"][:60]}

    if path.suffix == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"prompt": pa.string(), "completion": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        chunk: list[dict[str, str]] = []
        for row in rows():
            chunk.append(row)
            if len(chunk) == 50_000:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        writer.write_table(pa.Table.from_pylist(chunk, schema))


def load_tokenizer() -> Any:
    """Return the tokenizer of the shipped model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "ftcli/assets/models/llama_mini")


def prepare_with_ftcli(path: Path, cache: Path) -> Any:
    """Return a function that prepares the file in a cache folder and returns the number of tokens."""
    from ftcli.data.dataset import Data

    tokenizer = load_tokenizer()

    def prepare() -> int:
        data = Data(str(path), format="prompt", cache_dir=str(cache))
        tokens = data.prepare("train", tokenizer)
        loader = data.loader("train", tokenizer, 8)
        loader.batch(loader.list_batch_indices(0)[0])
        return int(tokens.lengths.sum())

    return prepare


def prepare_with_datasets(path: Path, cache: Path, batched: bool) -> Any:
    """Return a function that does the same with `load_dataset` and `map`."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    def join(prompt: list[int], answer: list[int]) -> dict[str, Any]:
        ids = [bos, *prompt, *answer, eos]
        return {"input_ids": ids, "labels": [-100] * (1 + len(prompt)) + ids[1 + len(prompt) :]}

    def tokenize(rows: dict[str, Any]) -> dict[str, Any]:
        prompts = [TEMPLATE.replace("{prompt}", prompt) for prompt in rows["prompt"]]
        encoded = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answers = tokenizer(rows["completion"], add_special_tokens=False)["input_ids"]
        joined = [join(*pair) for pair in zip(encoded, answers, strict=True)]
        return {key: [row[key] for row in joined] for key in ("input_ids", "labels")}

    def tokenize_row(row: dict[str, Any]) -> dict[str, Any]:
        prompt = tokenizer(TEMPLATE.replace("{prompt}", row["prompt"]), add_special_tokens=False)
        answer = tokenizer(row["completion"], add_special_tokens=False)
        return join(prompt["input_ids"], answer["input_ids"])

    def prepare() -> int:
        kind = "json" if path.suffix == ".jsonl" else "parquet"
        rows = datasets.load_dataset(
            kind, data_files=str(path), split="train", cache_dir=str(cache)
        )
        mapped = rows.map(
            tokenize if batched else tokenize_row,
            batched=batched,
            remove_columns=["prompt", "completion"],
        )
        assert mapped[0]["labels"]
        column = mapped.data.column("input_ids")
        return sum(len(chunk.flatten()) for chunk in column.chunks)

    return prepare


def measure(way: str, path: Path, cache: Path) -> None:
    """Print the figures of one way as JSON; run in a process of its own."""
    if way == "ftcli":
        prepare = prepare_with_ftcli(path, cache)
    else:
        prepare = prepare_with_datasets(path, cache, batched=way == "datasets")
    before = read_status("VmRSS")
    began, busy = time.perf_counter(), time.process_time()
    tokens = prepare()
    seconds, processor = time.perf_counter() - began, time.process_time() - busy
    peak = read_status("VmHWM")
    figures = {"seconds": seconds, "cpu_s": processor, "tokens": tokens}
    print(json.dumps(figures | {"peak_mb": peak, "rise_mb": peak - before}))


def run_process(way: str, path: Path, cache: Path) -> Record:
    """Return the figures of one way, measured in a new process."""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, __file__, "--measure", way, str(path), str(cache)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(count: int, kind: str, ways: Sequence[str]) -> Iterator[Record]:
    """Yield the figures of every way for one number of rows, and of ftcli's second start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{kind}"
        write_rows(path, count)
        tokens = set()
        for way in ways:
            cache = Path(folder) / way.replace(" ", "-")
            figures = run_process(way, path, cache)
            tokens.add(figures["tokens"])
            if way == "ftcli":
                figures["again_s"] = run_process(way, path, cache)["seconds"]
            yield {"rows": count, "way": way, "rows_s": count / figures["seconds"]} | figures
            shutil.rmtree(cache)
        assert len(tokens) == 1, f"the ways made other tokens: {tokens}"


def compare_with_ftcli(line: Record, own: Record) -> Record:
    """Return a line with processor time a row and its ratios: ftcli's rows a second over those of the way, the way's
    processor time over ftcli's."""
    return line | {
        "ratio": own["rows_s"] / line["rows_s"],
        "cpu_us": line["cpu_s"] / line["rows"] * 1e6,
        "cpu_ratio": line["cpu_s"] / own["cpu_s"],
    }


def describe(records: Sequence[Record], kind: str) -> Record:
    """Return the result for `table.py`."""
    machine = describe_machine(rounds=1)
    text = (
        f"{machine['device']}, torch {machine['packages']['torch']}; one process, {kind}. `ratio`: ftcli's rows a second "
        "over those of the way; `cpu_ratio`: processor time of the way over ftcli's."
    )
    return {"kind": "data", "text": text, "columns": COLUMNS, "records": records}


def main() -> None:
    """Compare for the numbers of rows of the command line, or measure one way."""
    if sys.argv[1:2] == ["--measure"]:
        way, path, cache = sys.argv[2:5]
        return measure(way, Path(path), Path(cache))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kind", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--against", choices=PEERS, nargs="+", default=PEERS)
    parser.add_argument("--out", type=Path, default=ROOT / "build/data.json")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for count in options.rows:
        own, *others = compare(count, options.kind, ("ftcli", *options.against))
        records += [compare_with_ftcli(line, own) for line in (own, *others)]
        result = describe(records, options.kind)
        options.out.write_text(json.dumps(result, indent=1))
    print("\n\n".join(format_result(result).values()))


if __name__ == "__main__":
    main()
