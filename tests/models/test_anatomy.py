"""Anatomy finds the same parts in very different transformers models, from structure alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from ftcli.models.anatomy import Anatomy, count_parameters

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, **options))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=3, n_head=4, vocab_size=100, **NO_SPECIAL))


def phi3(kv_heads=2):
    return Phi3ForCausalLM(Phi3Config(**SIZES, num_key_value_heads=kv_heads, **NO_SPECIAL))


def t5():
    sizes = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4, "vocab_size": 100}
    return T5ForConditionalGeneration(T5Config(**sizes, num_layers=2, num_decoder_layers=3))


def vit():
    sizes = {key: SIZES[key] for key in SIZES if key != "vocab_size"}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8))


CASES = {
    # model, stacks, linears a (last) block, token table, head, tied, norms
    "llama": (llama, {"model.layers": "decoder"}, 7, "model.embed_tokens", "lm_head", False, 7),
    "llama_tied": (
        lambda: llama(tie_word_embeddings=True),
        {"model.layers": "decoder"}, 7, "model.embed_tokens", "lm_head", True, 7,
    ),
    "qwen2": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
        {"model.layers": "decoder"}, 7, "model.embed_tokens", "lm_head", False, 7,
    ),
    "qwen3": (  # a norm on queries and on keys in each block
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16)),
        {"model.layers": "decoder"}, 7, "model.embed_tokens", "lm_head", False, 13,
    ),
    "gpt2": (gpt2, {"transformer.h": "decoder"}, 4, "transformer.wte", "lm_head", True, 7),
    "phi3": (phi3, {"model.layers": "decoder"}, 4, "model.embed_tokens", "lm_head", False, 7),
    "bert": (
        lambda: BertForMaskedLM(BertConfig(**SIZES)),
        {"bert.encoder.layer": "encoder"}, 6,
        "bert.embeddings.word_embeddings", "cls.predictions.decoder", True, 8,
    ),
    "bert_classifier": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES)),
        {"bert.encoder.layer": "encoder"}, 6,
        "bert.embeddings.word_embeddings", "classifier", False, 7,
    ),
    "t5": (
        t5, {"encoder.block": "encoder", "decoder.block": "decoder"}, 10, "shared", "lm_head",
        True, 15,
    ),
    "vit": (
        vit, {"vit.layers": "encoder"}, 6, "vit.embeddings.patch_embeddings", "classifier",
        False, 7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_parts_of_a_model(name):
    build, stacks, linears, table, head, tied, norms = CASES[name]
    model = build()
    anatomy = Anatomy(model)
    assert {stack.name: stack.role for stack in anatomy.stacks} == stacks
    assert len(anatomy.blocks) == sum(len(model.get_submodule(stack)) for stack in stacks)
    assert len(anatomy.linears_of(anatomy.blocks[-1][0])) == linears
    assert anatomy.embeddings[0][0] == table
    assert anatomy.head is not None and anatomy.head[0] == head
    assert anatomy.tied is tied
    assert len(anatomy.norms) == norms
    assert anatomy.parameters() == sum(p.numel() for p in model.parameters())
    for linear in anatomy.linears:
        assert linear.module is model.get_submodule(linear.name)
        weight = linear.module.weight
        assert linear.weights == weight.numel()
        shape = (linear.in_features, linear.out_features)
        assert shape == (tuple(weight.shape) if linear.kind == "conv1d" else tuple(weight.T.shape))


def test_blocks_come_in_order_of_the_forward_pass():
    names = [name for name, _ in Anatomy(t5()).blocks]
    assert names == [f"encoder.block.{i}" for i in range(2)] + [
        f"decoder.block.{i}" for i in range(3)
    ]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fused_layers_name_their_parts(kv_heads):
    fused = {li.name: (li.fused, li.parts) for li in Anatomy(phi3(kv_heads)).linears if li.fused}
    kv = 16 * kv_heads
    for layer in range(3):
        assert fused.pop(f"model.layers.{layer}.self_attn.qkv_proj") == ("qkv", (64, kv, kv))
        assert fused.pop(f"model.layers.{layer}.mlp.gate_up_proj") == ("gate_up", (96, 96))
    assert not fused


def test_gpt2_fuses_query_key_value_only():
    fused = {li.name: li.parts for li in Anatomy(gpt2()).linears if li.fused}
    assert fused == {f"transformer.h.{i}.attn.c_attn": (64, 64, 64) for i in range(3)}


def test_separate_layers_are_not_fused():
    for model in (llama(), t5(), vit(), BertForMaskedLM(BertConfig(**SIZES))):
        assert not [li.name for li in Anatomy(model).linears if li.fused]


def test_a_peft_model_has_the_anatomy_of_its_base():
    base = llama()
    before = [(li.name, li.weights) for li in Anatomy(base).linears]
    total = count_parameters(base)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    anatomy = Anatomy(model)
    assert [(li.name, li.weights) for li in anatomy.linears] == before
    assert anatomy.parameters() == total
    trained = count_parameters(model, trainable_only=True)
    per_block = 4 * sum(li.in_features + li.out_features for li in anatomy.block_linears)
    assert trained == per_block == count_parameters(model) - total


def test_packed_weights_count_as_what_they_stand_for():
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    plain = llama()
    expected = count_parameters(plain)
    for layer in plain.model.layers:
        attention = layer.self_attn
        for name, new in (("q_proj", Linear4bit), ("o_proj", Linear8bitLt)):
            old = getattr(attention, name)
            options = {"has_fp16_weights": False} if new is Linear8bitLt else {}
            quantised = new(old.in_features, old.out_features, bias=False, **options)
            quantised.load_state_dict(old.state_dict())
            setattr(attention, name, quantised.to("cpu"))
    assert plain.model.layers[0].self_attn.q_proj.weight.numel() == 64 * 64 // 2
    anatomy = Anatomy(plain)
    assert anatomy.parameters() == count_parameters(plain) == expected
    kinds = {li.name.rpartition(".")[2]: li.kind for li in anatomy.block_linears}
    assert kinds["q_proj"] == "4bit" and kinds["o_proj"] == "8bit" and kinds["k_proj"] == "linear"


def test_the_meta_device_is_enough():
    with torch.device("meta"):
        model = llama(tie_word_embeddings=True)
    anatomy = Anatomy(model)
    assert anatomy.tied and len(anatomy.blocks) == 3
    assert anatomy.parameters() == sum(
        p.numel() for p in llama(tie_word_embeddings=True).parameters()
    )


def test_a_model_that_is_not_from_transformers():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 8)
            self.layers = nn.ModuleList(Block() for _ in range(2))
            self.probes = nn.ModuleList(nn.Linear(8, 2) for _ in range(2))
            self.out = nn.Linear(8, 10)

    anatomy = Anatomy(Model())
    assert [stack.name for stack in anatomy.stacks] == ["layers"]
    assert anatomy.embeddings[0][0] == "table"
    assert anatomy.head is not None and anatomy.head[0] == "out"
    assert len(anatomy.block_linears) == 4 and len(anatomy.linears) == 7


def test_the_head_is_known_under_every_wrapper_of_peft():
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=32, num_hidden_layers=1, tie_word_embeddings=True, **sizes)
    for options in (
        {"target_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
    ):
        base = LlamaForCausalLM(config)
        head = base.lm_head
        assert Anatomy(get_peft_model(base, LoraConfig(r=2, **options))).head == ("lm_head", head)
