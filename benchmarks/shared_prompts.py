"""How much faster a training pass is when the answers to a prompt share it.

    OMP_NUM_THREADS=1 python benchmarks/shared_prompts.py --prompt 192 --answer 48 --group 8

Forward and backward of GRPO's log-probabilities on the shipped Llama; CPU time on a CPU (other
programs do not count), wall time on a GPU. The two ways take turns, the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ftcli.models.causal_lm import CausalLMSource
from ftcli.objectives.grpo import GRPO
from ftcli.objectives.rollouts import Batch, Prompt, build_micro_batch
from ftcli.objectives.sampling import SampledAnswer


def made(prompts: int, prompt: int, answer: int, group: int) -> dict[str, Batch]:
    """The same random prompts and answers in both layouts."""
    maker = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 4000, (length,), generator=maker).tolist()

    asked = [Prompt(ids(prompt), "", i) for i in range(prompts)]
    answers = [[SampledAnswer(ids(answer), False) for _ in range(group)] for _ in asked]
    return {layout: build_micro_batch(asked, answers, layout) for layout in ("shared", "packed")}


def seconds(model: torch.nn.Module, objective: GRPO, batch: Batch) -> float:
    """Time of one forward and backward pass."""
    on_gpu = next(model.parameters()).is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    began = clock()
    objective.token_log_probs(model, batch)[0].sum().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (
        ("prompts", 1),
        ("prompt", 192),
        ("answer", 48),
        ("group", 8),
        ("times", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    model, objective = (
        CausalLMSource("asset:llama_mini").load().train(),
        GRPO(rewards={"length": 1}),
    )
    batches = made(given.prompts, given.prompt, given.answer, given.group)
    took: dict[str, list[float]] = {layout: [] for layout in batches}
    for turn in range(given.times + 1):
        for layout, batch in batches.items():
            one = seconds(model, objective, batch)
            if turn:  # the first pass makes kernels
                took[layout].append(one)
    shared, packed = (statistics.median(took[layout]) for layout in ("shared", "packed"))
    tokens = [int(batches[layout]["lengths"].sum()) for layout in ("shared", "packed")]
    print(
        f"shared {shared:.3f} s, {tokens[0]:,} tokens; each its own {packed:.3f} s, {tokens[1]:,} tokens"
    )
    print(f"{packed / shared:.2f} times as fast, {tokens[1] / tokens[0]:.2f} times fewer tokens")


if __name__ == "__main__":
    main()
