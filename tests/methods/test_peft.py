"""LoRA's parameter count on every kind of layer; what is saved beside it; what is refused."""

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ftcli.core.errors import UserError
from ftcli.methods.peft import Peft, to_plain_data
from ftcli.methods.prompt import PromptLearning
from ftcli.models.anatomy import Anatomy, count_parameters
from ftcli.models.causal_lm import CausalLMSource

from .tiny import load, logits, train, trainable, write_llama

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=100, **NONE)
    ),
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, **NONE)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **HEADS)),
}
#: r * sum(in + out) over two blocks by hand, r = 4.
BY_HAND = {
    # q 64+64, k and v 64+32, o 64+64, gate and up 64+96, down 96+64
    "llama": 2 * 4 * (128 + 2 * 96 + 128 + 3 * 160),
    # c_attn 64+192, c_proj 64+64, c_fc 64+256, c_proj 256+64
    "gpt2": 2 * 4 * (256 + 128 + 320 + 320),
    # qkv 64+128, o 64+64, gate_up 64+192, down 96+64
    "phi3": 2 * 4 * (192 + 128 + 256 + 160),
    "qwen3": 2 * 4 * (128 + 2 * 96 + 128 + 3 * 160),
    "gemma2": 2 * 4 * (128 + 2 * 96 + 128 + 3 * 160),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", MODELS)
def test_lora_trains_r_times_in_plus_out_on_every_linear_of_the_blocks(name):
    model = MODELS[name]()
    formula = 4 * sum(li.in_features + li.out_features for li in Anatomy(model).block_linears)
    adapted = Peft(r=4).prepare(model)
    assert count_parameters(adapted, trainable_only=True) == formula == BY_HAND[name]
    assert not any("lm_head" in n or "embed" in n for n in trainable(adapted))


@pytest.mark.parametrize(
    ("architecture", "r", "published"),
    [("llama3_8b", 64, 167_772_160), ("llama2_7b", 64, 159_907_840)],
)
def test_published_counts_on_the_meta_device(architecture, r, published):
    meta = CausalLMSource("owner/name", architecture=architecture).build_meta_model()
    model = Peft(r=r).prepare(meta)
    assert count_parameters(model, trainable_only=True) == published


def test_quantised_linears_are_counted_by_true_shape(folder):
    counts = [
        count_parameters(Peft(r=4).prepare(load(folder, q)), trainable_only=True)
        for q in ("none", "nf4", "int8")
    ]
    assert len(set(counts)) == 1


def test_modules_to_save_are_trained_kept_and_saved(folder, tmp_path):
    method = Peft(r=4, modules_to_save=["embed_tokens", "lm_head"])
    model = method.prepare(load(folder))
    train(model)
    state, after = method.get_trained_tensors(model), logits(model)
    assert sum("lora" not in name for name in state) == 2
    assert state.keys() == {n.replace(".default", "") for n in state}
    other = method.prepare(load(folder))
    method.load_trained_tensors(other, state)
    assert torch.equal(logits(other), after)
    method.save(model, tmp_path)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(load(folder), tmp_path)), after)
    assert (logits(method.merge(model)) - after).abs().max() < 1e-5


def test_the_state_of_tied_layers_can_be_written(tmp_path):
    source = CausalLMSource("asset:llama_mini")
    method = Peft("peft.TrainableTokensConfig", target_modules=None, token_indices=[3, 4])
    model = method.prepare(source.load("cpu"))
    train(model)
    save_file(method.get_trained_tensors(model), tmp_path / "adapter.safetensors")
    other = method.prepare(source.load("cpu"))
    method.load_trained_tensors(other, load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("name", ["lora", "dora", "shira", "boft", "miss"])
def test_a_half_precision_quantised_base_is_no_obstacle(folder, name):
    from .tiny import method as of

    model = of(name).prepare(load(folder, "nf4", dtype="bfloat16"))
    before = {n: p.detach().clone() for n, p in trainable(model).items()}
    train(model, steps=2, bf16=True)
    assert not any(torch.equal(p, before[n]) for n, p in trainable(model).items())


def test_merging_into_quantised_weights_is_refused(folder):
    method = Peft(r=4)
    model = method.prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match="lose the adapter to rounding"):
        method.merge(model)


def test_a_dequantised_base_with_the_same_adapter_merges_to_what_was_trained(folder):
    method = Peft(r=4)
    model = method.prepare(load(folder, "nf4"))
    train(model)
    base = load(folder, "nf4").dequantize(dtype=torch.float32)
    plain_model = method.prepare(base)
    method.load_trained_tensors(plain_model, method.get_trained_tensors(model))
    assert (logits(method.merge(plain_model)) - logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config_class": "peft.LoRaConfig"}, "there is no peft.LoRaConfig"),
        ({"rank": 4}, "unexpected keyword argument 'rank'"),
        ({"r": 0}, "positive integer"),
        ({"config_class": "peft.PromptTuningConfig"}, "soft prompts, not layers"),
        ({"config_class": "peft.BOFTConfig", "boft_block_size": 7}, "peft.BOFTConfig"),
    ],
)
def test_what_peft_refuses_becomes_one_message(folder, options, words):
    with pytest.raises(UserError, match=words):
        Peft(**options).prepare(load(folder))


def test_prompt_learning_takes_only_prompts(folder):
    with pytest.raises(UserError, match="not a prompt-learning"):
        PromptLearning("peft.LoraConfig").prepare(load(folder))
    assert not PromptLearning.packable and Peft.packable


def test_a_prompt_checkpoint_keeps_what_computes_the_prompt(folder):
    method = PromptLearning("peft.PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=8)
    model = method.prepare(load(folder))
    trained = sum(p.numel() for p in trainable(model).values())
    assert sum(t.numel() for t in method.get_trained_tensors(model).values()) == trained


def test_description_is_plain_json(folder):
    method = Peft(r=4)
    method.prepare(load(folder))
    described = method.describe()
    assert described["peft_type"] == "LORA" and described["r"] == 4
    assert len(described["target_modules"]) == 14 and described["inference_mode"]
    assert to_plain_data({"a": {2, 1}, "b": (peft.PeftType.LORA,)}) == {"a": [1, 2], "b": ["LORA"]}


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, True), ({"init_lora_weights": "pissa_niter_4"}, False), ({"bias": "all"}, False)],
)
def test_says_whether_the_pretrained_model_is_left_without_the_adapter(options, kept):
    assert Peft(**options).keeps_base is kept


def test_what_all_linear_layers_are_is_found_without_using_up_chance():
    """The same seed starts the same adapter, whether its layers are found or named."""

    def start(targets):
        model = CausalLMSource("asset:llama_mini").load("cpu")
        torch.manual_seed(0)
        return Peft(r=4, target_modules=targets).prepare(model).state_dict()

    named = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    actual, expected = start("all-linear"), start(named)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
