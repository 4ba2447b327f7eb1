"""Batched answers equal single ones, and stop where the template says."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from ftcli.models.decoding import find_stop_ids, generate_answers, pad_left


@pytest.fixture(scope="module")
def parts():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = "ftcli/assets/models/llama_mini"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_end_of_sequence_and_end_of_turn_both_end_an_answer(parts):
    model, tokenizer = parts
    ends = tokenizer.convert_tokens_to_ids(["<|eos|>", "<|im_end|>"])
    assert find_stop_ids(tokenizer, model) == sorted(ends)


def test_padding_is_on_the_left():
    ids, mask = pad_left([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_batch_gives_the_answers_of_single_prompts_in_their_order(parts):
    model, tokenizer = parts
    texts = ["The river runs", "Once upon a time there was a king who", "In the city of"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    with torch.no_grad():
        together = generate_answers(model, tokenizer, prompts, max_new_tokens=12, batch_size=3)
        alone = [generate_answers(model, tokenizer, [p], max_new_tokens=12)[0] for p in prompts]
    assert together == alone and len(set(alone)) == 3 and all(alone)


def test_what_the_model_ships_as_sampling_defaults_does_not_apply(parts, monkeypatch):
    model, tokenizer = parts
    prompts = [tokenizer("The river runs")["input_ids"]]
    with torch.no_grad():
        greedy = generate_answers(model, tokenizer, prompts, max_new_tokens=12)
        shipped = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        monkeypatch.setattr(model, "generation_config", shipped)
        assert generate_answers(model, tokenizer, prompts, max_new_tokens=12) == greedy
