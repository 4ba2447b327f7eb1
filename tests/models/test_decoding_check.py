"""Answers generated in batches equal those generated one at a time, or they are not batched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.models import attention
from ftcli.models.batch_layout_check import select_batch_layout
from ftcli.models.decoding import generate_answers
from ftcli.models.decoding_check import Decoding, find_decoding
from ftcli.objectives.causal_lm import NextTokenPrediction

from ..models import zoo

FOUND = {
    "llama": "padded", "gemma2": "padded", "gemma3_text": "padded", "gpt_oss": "padded",
    "llama4_text": "padded", "minimax": "padded", "mamba2": "padded", "qwen3_next": "padded",
    "bloom": "padded", "falcon": "padded", "rwkv": "single", "recurrent_gemma": "equal",
    "zamba2": "equal", "xlstm": "equal",
}  # fmt: skip
PROMPTS = (11, 4, 19, 4)


class Numbers:
    """A tokenizer whose texts are the ids themselves."""

    eos_token_id, pad_token_id, chat_template = 1, 0, None
    all_special_ids = (0, 1)

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def model_of(kind):
    model = zoo.build(kind)
    attention.install_document_attention(model)
    select_batch_layout(model, "auto", 512, NextTokenPrediction())
    return model


@torch.no_grad()
def greedy(kind, prompt, count):
    """Generate by the library's forward over the whole text, without a cache."""
    model, ids = zoo.build(kind), list(prompt)
    stops = model.generation_config.eos_token_id
    stops = {1, *(stops if isinstance(stops, list) else [stops])}
    for _ in range(count):
        ids.append(
            int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        )
        if ids[-1] in stops:
            ids.pop()
            break
    return " ".join(map(str, ids[len(prompt) :]))


@pytest.mark.parametrize("kind", FOUND)
def test_answers_are_those_of_each_prompt_alone(kind):
    model, prompts = model_of(kind), zoo.documents(PROMPTS)
    assert find_decoding(model).batch == FOUND[kind]
    answers = generate_answers(model, Numbers(), prompts, 5)
    assert answers == [greedy(kind, prompt, 5) for prompt in prompts]


def test_prompts_of_one_length_stand_together_longest_first():
    lengths = (3, 7, 3, 5, 7, 7)
    assert list(Decoding().group_prompts(lengths, 4)) == [[1, 4, 5, 3], [0, 2]]
    assert list(Decoding("equal").group_prompts(lengths, 2)) == [[1, 4], [5], [3], [0, 2]]
    assert list(Decoding("single").group_prompts(lengths, 4)) == [[1], [4], [5], [3], [0], [2]]
    assert list(Decoding().group_prompts((), 4)) == []


def test_a_model_whose_generation_is_not_its_own_is_refused():
    """RoBERTa counts positions from the padding's id on; `generate` passes others."""
    with pytest.raises(UserError, match="does not follow its own probabilities"):
        find_decoding(model_of("roberta"))


def test_it_is_measured_once_and_uses_no_chance(monkeypatch):
    model = model_of("llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    decoding = find_decoding(model)
    assert torch.equal(torch.rand(3), expected)
    monkeypatch.setattr(model, "generate", SimpleNamespace())
    assert find_decoding(model) is decoding
