"""Candidates of different prepared models, sorted by block, each exactly once."""

import peft
import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ftcli.core.errors import UserError
from ftcli.models.anatomy import count_parameters
from ftcli.trainable.blocks import Candidates

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 100}
BARE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
T5_SIZES = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4, "vocab_size": 100}


def llama(**options):
    config = LlamaConfig(**SIZES, num_hidden_layers=3, num_key_value_heads=2, **options)
    return LlamaForCausalLM(config)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=3, n_head=4, vocab_size=100, **BARE))


def phi3():
    config = Phi3Config(**SIZES, num_hidden_layers=3, num_key_value_heads=2, **BARE)
    return Phi3ForCausalLM(config)


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, num_hidden_layers=3))


def t5():
    return T5ForConditionalGeneration(T5Config(**T5_SIZES, num_layers=2, num_decoder_layers=3))


#: Model, blocks, parameters of the last block, of those outside that appear in this order.
CASES = {
    "llama": (llama, 3, "layers.2.", ["embed_tokens.weight", "norm.weight", "lm_head.weight"]),
    "llama_tied": (
        lambda: llama(tie_word_embeddings=True), 3, "layers.2.", ["embed_tokens.weight", "norm.weight"],
    ),
    "gpt2": (gpt2, 3, "h.2.", ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]),
    "phi3": (phi3, 3, "layers.2.", ["embed_tokens.weight", "norm.weight", "lm_head.weight"]),
    "t5": (
        t5, 5, "decoder.block.2.",
        ["shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CASES, "bert"])
def test_every_parameter_has_one_place(name):
    build = bert if name == "bert" else CASES[name][0]
    model = build()
    found = Candidates.from_model(model)
    assert sum(p.numel() for _, p in found) == count_parameters(model)
    assert len({id(p) for _, p in found}) == len(list(found)) == len(list(model.parameters()))


@pytest.mark.parametrize("name", CASES)
def test_blocks_and_what_lies_outside(name):
    build, blocks, last, outside = CASES[name]
    model = build()
    found = Candidates.from_model(model)
    assert found.blocks == list(range(blocks))
    assert all(last in n for n, _ in found.inside[blocks - 1])
    assert not any(last in n for number in range(blocks - 1) for n, _ in found.inside[number])
    names = [n for n, _ in found.outside]
    assert len(names) == len(outside)
    assert all(n.endswith(end) for n, end in zip(names, outside, strict=True))


def test_bert_keeps_embeddings_pooler_and_head_outside():
    found = Candidates.from_model(bert())
    assert found.blocks == [0, 1, 2]
    parts = {name.split(".")[-3 if "LayerNorm" in name else -2] for name, _ in found.outside}
    assert {"word_embeddings", "dense", "classifier"} <= parts


@pytest.mark.parametrize("name", [*CASES, "bert"])
def test_adapters_belong_to_the_block_they_stand_in(name):
    build = bert if name == "bert" else CASES[name][0]
    model = peft.get_peft_model(build(), peft.LoraConfig(target_modules="all-linear", r=2))
    found = Candidates.from_model(model)
    assert found.blocks == list(range(CASES[name][1] if name in CASES else 3))
    assert all("lora_" in n for block in found.inside.values() for n, _ in block)
    sizes = {sum(p.numel() for _, p in block) for block in found.inside.values()}
    assert len(sizes) == (2 if name == "t5" else 1)  # its decoder attends twice
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for _, p in found) == trained


def test_only_candidates_count():
    config = peft.LoraConfig(target_modules=["q_proj"], layers_to_transform=[2], r=2)
    found = Candidates.from_model(peft.get_peft_model(llama(), config))
    assert found.blocks == [2] and len(found.inside[2]) == 2 and found.outside == []


def test_what_several_blocks_share_lies_outside():
    config = peft.VBLoRAConfig(
        target_modules=["q_proj"], r=2, num_vectors=8, vector_length=16, topk=2
    )
    found = Candidates.from_model(peft.get_peft_model(llama(), config))
    assert [n for n, _ in found.outside if "vector_bank" in n]
    assert all("logits" in n for block in found.inside.values() for n, _ in block)


def test_a_model_with_nothing_inside_blocks_is_refused():
    model = peft.get_peft_model(
        llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(UserError, match="inside a block"):
        Candidates.from_model(model)
