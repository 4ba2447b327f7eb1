"""Answers that share their prompt are computed as in separate rows."""

from __future__ import annotations

import pytest
import torch

from ftcli.models.attention_layout import pack_inputs
from ftcli.models.shared_prompts import group_shared_prompts
from ftcli.objectives.rollouts import Prompt, build_micro_batch
from ftcli.objectives.sampling import SampledAnswer

PROMPTS, ANSWERS = (5, 7, 6, 31), ((3, 1, 4), (2, 2, 2), (1, 6, 3), (9, 2, 2))
KINDS = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 6},
    "gemma2": {"num_key_value_heads": 2, "sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8},
}  # fmt: skip


def model_of(kind: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4}  # fmt: skip
    config = AutoConfig.for_model(kind, **size | KINDS[kind])
    return AutoModelForCausalLM.from_config(config, attn_implementation="documents").train()


def batches():
    maker = torch.Generator().manual_seed(1)

    def ids(length: int) -> list[int]:
        return torch.randint(1, 50, (length,), generator=maker).tolist()

    prompts = [Prompt(ids(n), "", i) for i, n in enumerate(PROMPTS)]
    answers = [[SampledAnswer(ids(n), False) for n in some] for some in ANSWERS]
    return [
        build_micro_batch(prompts, answers, layout) for layout in ("shared", "packed", "padded")
    ]


def log_probs(model, batch):
    if "lengths" in batch:
        inputs = pack_inputs(batch)
    else:
        inputs = {k: batch[k] for k in ("input_ids", "position_ids", "attention_mask")}
    logits = model(**inputs, use_cache=False).logits[:, : batch["input_ids"].shape[1]]
    logs = logits.flatten(0, 1)[batch["where"]].log_softmax(-1)
    return logs.gather(-1, batch["targets"][:, None]).squeeze(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_without_sharing(kind):
    model, results = model_of(kind), []
    for batch in batches():
        model.zero_grad()
        values = log_probs(model, batch)
        (values * torch.linspace(-1, 1, len(values))).sum().backward()
        results.append((values.detach(), [p.grad.clone() for p in model.parameters()]))
    (values, gradients), *others = results
    for other, theirs in others:
        assert torch.allclose(values, other, atol=1e-5)
        for one, two in zip(gradients, theirs, strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_the_row_holds_each_prompt_once():
    shared, packed, _ = batches()
    answers = sum(map(sum, ANSWERS))
    assert shared["input_ids"].shape[1] == sum(PROMPTS) + answers
    assert packed["input_ids"].shape[1] == 3 * sum(PROMPTS) + answers
    assert shared["num_supervised"] == packed["num_supervised"] == answers


def test_prompts_of_like_length_are_attended_together():
    layout = group_shared_prompts(PROMPTS, [n for some in ANSWERS for n in some], [3] * 4)
    assert [f.prompts.documents for f in layout.groups] == [3, 1]
    assert [f.answers.documents for f in layout.groups] == [9, 3]
