"""Quantised side tuning: the equations, tensors saved for backward, parameters, generation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    OPTConfig,
    PhiConfig,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)  # fmt: skip

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.papers.qst.method import Qst
from ftcli.papers.qst.tuner import side_layer
from tests.methods.tiny import (
    IDS,
    load,
    logits,
    loss_of,
    method,
    train,
    trainable,
    write_gpt2,
    write_llama,
)

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 128, "num_hidden_layers": 2}
#: Families beside Llama and GPT-2: grouped queries with heads wider than d / heads, positions in the
#: embedding with a projection before the head, rotation of a part of each head, local attention.
FAMILIES = {
    "qwen3": Qwen3Config(**SIZES, intermediate_size=96, num_key_value_heads=2, head_dim=32,
                         tie_word_embeddings=True),
    "opt": OPTConfig(**SIZES, ffn_dim=96, word_embed_proj_dim=32, do_layer_norm_before=False),
    "phi": PhiConfig(**SIZES, intermediate_size=96),
    "gpt_neo": GPTNeoConfig(hidden_size=64, num_layers=2, num_heads=4, vocab_size=128,
                            attention_types=[[["global", "local"], 1]], window_size=4),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def prepare_model(base, **options):
    torch.manual_seed(1)
    return Qst(**{"reduction": 4, "rank": 4} | options).prepare(base)


def side_of(model):
    return side_layer(model).qst_side["default"]


def perturb(model, by: float = 0.2):
    """Change every trained tensor, so that the side network changes the output."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(by * torch.randn_like(p))
    return model


@pytest.mark.parametrize("stored", ["none", "nf4"])
def test_the_first_step_is_the_base_to_the_bit(folder, stored):
    before = logits(load(folder, stored))
    assert torch.equal(logits(prepare_model(load(folder, stored))), before)


def test_an_output_gate_under_a_sigmoid_begins_elsewhere(folder):
    model = prepare_model(load(folder), output_gate_form="sigmoid")
    assert torch.allclose(side_of(model).base_share(), torch.tensor(0.7311), atol=1e-4)
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-3


@torch.no_grad()
def test_it_computes_what_the_paper_says(folder):
    """Equation by equation, from hidden states taken by hooks of the base alone."""
    model, base = perturb(prepare_model(load(folder))), load(folder)
    side, states = side_of(model), []
    hooks = [
        block.register_forward_hook(lambda *a: states.append(a[2])) for block in base.model.layers
    ]
    last = base.model(input_ids=IDS).last_hidden_state  # behind the final norm, as `states` is not
    for hook in hooks:
        hook.remove()
    s = down(side.downs[0], base.model.embed_tokens(IDS))
    positions = torch.arange(IDS.shape[1])[None]
    rotary = side.rotary["rotary_emb"](s, positions)
    for i, block in enumerate(side.blocks):
        z = torch.sigmoid(side.gates[i])
        s = (1 - z) * down(side.downs[i], states[i]) + z * s
        s = block(s, position_embeddings=rotary, position_ids=positions)
    up = side.norm(s) @ side.up.weight.T + side.up.bias
    expected = base.lm_head((1 - side.alpha) * up + side.alpha * last)
    assert torch.allclose(logits(model), expected, atol=1e-5)


def down(module, x):
    x = torch.nn.functional.silu(x @ module[0].weight.T) @ module[2].weight.T
    return torch.nn.functional.layer_norm(x, x.shape[-1:], module[3].weight, module[3].bias)


def test_blocks_are_the_familys_own_at_a_quarter_of_the_width(folder):
    model = prepare_model(load(folder))
    block, base = side_of(model).blocks[1], Anatomy(model).blocks[1][1]
    assert type(block) is type(base) and block.mlp.gate_proj.weight.shape == (48, 32)
    assert block.self_attn.k_proj.weight.shape == (2 * 8, 32)  # two heads for keys, as in the base


@pytest.mark.parametrize(
    ("kind", "each"),
    [("adapter", 128 * 4 + 4 * 32 + 2 * 32), ("lora", 128 * 4 + 4 * 32), ("linear", 128 * 32 + 32),
     ("maxpool", 0), ("avgpool", 0)],
)  # fmt: skip
def test_downsamplers_have_as_many_parameters_as_they_should(folder, kind, each):
    model = prepare_model(load(folder), downsample=kind)
    downs = side_of(model).downs
    assert sum(p.numel() for p in downs.parameters()) == 2 * each
    x = torch.arange(128.0).expand(1, 3, 128)
    pooled = {"maxpool": torch.arange(3.0, 128, 4), "avgpool": torch.arange(1.5, 128, 4)}
    assert downs[0](x).shape == (1, 3, 32)
    assert kind not in pooled or torch.equal(downs[0](x)[0, 0], pooled[kind])
    train(model)
    assert all(p.grad is not None for p in trainable(model).values())


def saved_bytes(model) -> int:
    """Bytes that a forward pass saves for backward, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    model.train()
    with saved_tensors_hooks(pack, lambda t: t):
        side_layer(model)(input_ids=IDS)
    return sum(size for size, _ in kept.values())


def test_nothing_of_the_base_is_kept_but_what_the_downsamplers_read(folder):
    model = prepare_model(load(folder), downsample="avgpool", reduction=16)
    seen = []
    for _, block in Anatomy(model).blocks:
        block.register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
    pooled = saved_bytes(model)
    assert seen == [False, False] and not any(p.grad is not None for p in model.parameters())
    wide = IDS.numel() * 128 * 4  # bytes of one hidden state
    learned = saved_bytes(prepare_model(load(folder), downsample="linear", reduction=16))
    # h_0 and each block's output, inputs of trained matrices; and 1 - z_i, which multiplies what comes
    assert learned - pooled == 3 * wide + 2 * 8 * 4
    lora = method("lora").prepare(load(folder))
    assert pooled < saved_bytes_of_base(lora) / 4


def saved_bytes_of_base(model) -> int:
    total, weights = 0, {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = set()

    def pack(tensor):
        nonlocal total
        place = tensor.untyped_storage().data_ptr()
        total += tensor.untyped_storage().nbytes() if place not in weights | seen else 0
        seen.add(place)
        return tensor

    model.train()
    with saved_tensors_hooks(pack, lambda t: t):
        kept = model.base_model.model.model(input_ids=IDS)
    del kept
    return total


def test_dropout_of_the_base_stays_off(tmp_path):
    write_gpt2(tmp_path)
    model = prepare_model(load(tmp_path, kind="gpt2")).train()
    assert side_of(model).training and not side_layer(model).base_layer.training
    for module in side_layer(model).base_layer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert torch.equal(loss_of(model), loss_of(model))


def test_recomputation_is_of_side_blocks_alone(folder):
    model = prepare_model(load(folder)).train()
    runs = {"base": 0, "side": 0}
    for name, blocks in (
        ("base", Anatomy(model).blocks),
        ("side", enumerate(side_of(model).blocks)),
    ):
        for _, block in blocks:
            block.mlp.register_forward_pre_hook(lambda *_, n=name: runs.update({n: runs[n] + 1}))
    model.activation_checkpointing_enable({"use_reentrant": False})
    loss_of(model).backward()
    assert runs == {"base": 2, "side": 4}


def test_packed_documents_do_not_see_each_other(folder):
    model = perturb(prepare_model(load(folder))).eval()
    lengths = torch.tensor([7, 12, 5])
    ids = torch.randint(3, 100, (1, 24), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    row = {"input_ids": ids, "labels": ids, "position_ids": positions, "lengths": lengths}
    together = NextTokenPrediction()(model, row).values
    single = [
        NextTokenPrediction()(model, {"input_ids": x, "labels": x, "position_ids": torch.arange(x.shape[1])[None],
                            "attention_mask": torch.ones_like(x)}).values
        for x in ids.split(lengths.tolist(), dim=1)
    ]  # fmt: skip
    # the first token of a document has a label too, which the one before it predicts
    kept = torch.cat([together[:6], together[7:18], together[19:]])
    assert torch.allclose(kept, torch.cat(single), atol=1e-5)


def test_disabled_it_is_the_base(folder):
    model = perturb(prepare_model(load(folder)))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load(folder)))
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-2


def generate(model, **options):
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0  # padded on the left
    with torch.no_grad():
        return model.eval().generate(
            input_ids=IDS, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0,
            eos_token_id=127, **options,
        )  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_equals_generation_without(folder, beams):
    model = perturb(prepare_model(load(folder)))
    with_cache = generate(model, use_cache=True, num_beams=beams)
    assert torch.equal(with_cache, generate(model, use_cache=False, num_beams=beams))
    assert not torch.equal(with_cache, generate(load(folder), use_cache=True, num_beams=beams))


def test_a_cache_of_fixed_length_is_refused(folder):
    with pytest.raises(UserError, match="use_cache=False"):
        generate(prepare_model(load(folder)), cache_implementation="static")


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families(name):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(FAMILIES[name]).eval()
    before = logits(base)
    model = prepare_model(base)
    assert torch.equal(logits(model), before)
    perturb(model)
    assert torch.equal(generate(model, use_cache=True), generate(model, use_cache=False))
    train(model, steps=1)
    assert all(p.grad is not None for p in trainable(model).values())


def test_widths_that_cannot_be_divided_are_refused_with_those_that_can(folder):
    with pytest.raises(UserError, match="These do: 1, 2, 4, 8, 16") as caught:
        prepare_model(load(folder), reduction=32)
    assert caught.value.fix == "method.reduction=16"


def test_an_encoder_with_a_decoder_is_refused():
    sizes = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 1,
        "num_heads": 4,
        "vocab_size": 40,
    }
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    with pytest.raises(UserError, match=r"encoder\.block, decoder\.block"):
        prepare_model(model)


def test_a_fixed_output_gate_is_not_trained(folder):
    model = prepare_model(load(folder), output_gate_form="fixed", output_gate=0.0)
    assert not any(name.endswith("alpha") for name in trainable(model))
    with torch.no_grad():
        side_of(model).up.weight.zero_()
        side_of(model).up.bias.zero_()
    assert logits(model).abs().max() == 0  # the base has no part in it
