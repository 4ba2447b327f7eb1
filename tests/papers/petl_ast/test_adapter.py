"""Adapters beside and behind sublayers: equations, starts, counts, and what does not fit."""

from __future__ import annotations

import peft
import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from ftcli.papers.petl_ast.adapter import SublayerConfig, find_sublayers
from ftcli.papers.petl_ast.blocks import Bottleneck, Conformer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CORE = "audio_spectrogram_transformer"


def ast(**sizes) -> ASTForAudioClassification:
    torch.manual_seed(0)
    shape = {"max_length": 36, "num_mel_bins": 26} | SIZES | sizes
    return ASTForAudioClassification(ASTConfig(**shape)).eval()


def adapted(base=None, **options):
    torch.manual_seed(1)
    options = {"reduction_factor": 4, "kernel": 3} | options
    return peft.get_peft_model(base or ast(), SublayerConfig(**options)).eval()


def sound(model) -> torch.Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        return model(input_values=torch.randn(3, 36, 26)).logits


def counted(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("block", ["bottleneck", "conformer"])
@pytest.mark.parametrize("sites", ["ffn", "both"])
def test_a_parallel_adapter_starts_as_the_base(block, sites):
    assert torch.equal(sound(adapted(block=block, sites=sites)), sound(ast()))
    started = adapted(block=block, sites=sites, start="random")
    assert not torch.allclose(sound(started), sound(ast()))


def test_a_sequential_one_starts_as_the_base_only_with_the_residual():
    assert torch.equal(sound(adapted(placement="sequential", residual=True)), sound(ast()))
    without = adapted(placement="sequential")
    assert not torch.allclose(sound(without), sound(ast()))
    layer = without.base_model.model.audio_spectrogram_transformer.layers[0].mlp
    assert not layer(torch.randn(1, 4, 32)).any()  # A = 0 stands in the place of F


@pytest.mark.parametrize(
    ("placement", "residual"), [("parallel", False), ("sequential", False), ("sequential", True)]
)
@pytest.mark.parametrize("block", ["bottleneck", "conformer"])
def test_a_block_computes_the_papers_equation(placement, residual, block):
    model = adapted(
        placement=placement, residual=residual, block=block, sites="both", start="random"
    )
    layer = model.base_model.model.audio_spectrogram_transformer.layers[1]
    x = torch.randn(2, 5, 32)

    def sublayer(wrapped, n):
        result = wrapped.base_layer(n)
        f = result[0] if isinstance(result, tuple) else result
        a = wrapped.sublayer_adapter["default"]
        return f + a(n) if placement == "parallel" else a(f) + (f if residual else 0)

    with torch.no_grad():
        middle = x + sublayer(layer.attention, layer.layernorm_before(x))
        wanted = middle + sublayer(layer.mlp, layer.layernorm_after(middle))
        assert torch.allclose(layer(x), wanted, atol=1e-6)


def test_the_blocks_are_what_their_equations_say():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 12)
    b = Bottleneck(12, 3, "random")
    by_hand = (
        torch.nn.functional.gelu(x @ b.down.weight.T + b.down.bias) @ b.up.weight.T + b.up.bias
    )
    assert torch.allclose(b(x), by_hand, atol=1e-6)
    c = Conformer(12, 3, kernel=5, start="random").eval()
    n = torch.nn.functional.layer_norm(x, (12,))
    d = n @ c.down.weight.T + c.down.bias
    g = (d[..., :3] * d[..., 3:].sigmoid()).transpose(1, 2)
    padded = torch.nn.functional.pad(g, (2, 2))
    conv = torch.stack([
        (padded[:, :, t : t + 5] * c.depthwise.weight[:, 0]).sum(-1) + c.depthwise.bias for t in range(7)
    ], -1)  # fmt: skip
    normed = conv / (1 + c.batch_norm.eps) ** 0.5
    out = (normed * normed.sigmoid()).transpose(1, 2) @ c.up.weight.T + c.up.bias
    assert torch.allclose(c(x), out, atol=1e-6)


def learned(model, steps: int = 3) -> dict[str, bool]:
    """Which tensors of the first adapter get a gradient, in one of a few steps."""
    torch.manual_seed(3)
    model.train()
    adapter = model.base_model.model.audio_spectrogram_transformer.layers[0].mlp.sublayer_adapter
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    moved = dict.fromkeys((name for name, _ in adapter["default"].named_parameters()), False)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_values=torch.randn(3, 36, 26), labels=torch.tensor([0, 1, 0])).loss.backward()
        for name, p in adapter["default"].named_parameters():
            moved[name] |= bool(p.grad is not None and p.grad.any())
        optimizer.step()
    return moved


def test_with_both_matrices_at_zero_only_a_bias_ever_learns():
    assert [n for n, moves in learned(adapted(start="zero_both")).items() if moves] == ["up.bias"]
    assert all(learned(adapted()).values())
    assert all(learned(adapted(block="conformer")).values())


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({"block": "conformer"}, 21024),
        ({"block": "bottleneck"}, 2 * 768 * 8 + 8 + 768),
        ({"block": "bottleneck", "reduction_factor": 64}, 2 * 768 * 12 + 12 + 768),
    ],
)
@pytest.mark.parametrize("sites", ["ffn", "both"])
def test_counts_on_ast_base(options, each, sites):
    with torch.device("meta"):
        base = ASTForAudioClassification(ASTConfig())
        config = SublayerConfig(sites=sites, **options)
        model = peft.get_peft_model(base, config)
    number = 24 if sites == "both" else 12
    assert counted(model) == number * (each + 2 * 768)
    norms = sum(
        p.numel() for n, p in model.named_parameters() if p.requires_grad and "layernorm" in n
    )
    assert norms == number * 1536
    if options == {"block": "conformer"} and sites == "ffn":
        assert counted(model) - norms == 252_288
        total = sum(p.numel() for p in base.parameters())
        assert abs(252_288 / total - 0.0029) < 0.0001


@pytest.mark.parametrize("frames", [100, 400, 500, 1024])
def test_tokens_of_a_spectrogram(frames):
    with torch.device("meta"):
        model = ASTForAudioClassification(ASTConfig(max_length=frames, num_hidden_layers=1))
    positions = model.audio_spectrogram_transformer.embeddings.position_embeddings.shape[1]
    assert positions == 2 + 12 * ((frames - 16) // 10 + 1)


def test_norms_and_running_statistics_are_saved_and_come_back(tmp_path):
    model = adapted(block="conformer", modules_to_save=[f"{CORE}.layernorm"])
    learned(model)
    names = get_peft_model_state_dict(model)
    assert sum("running_mean" in name for name in names) == 2
    assert sum("layernorm" in name for name in names) == 6
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(ast(), tmp_path).eval()
    assert torch.equal(sound(again), sound(model))


def test_switched_off_it_is_the_base_with_its_own_norms():
    model = adapted(start="random")
    with model.disable_adapter():
        assert torch.equal(sound(model), sound(ast()))


def test_in_a_decoder_the_convolution_does_not_look_ahead():
    sizes = {**SIZES, "num_key_value_heads": 2, "vocab_size": 20}
    torch.manual_seed(0)
    model = adapted(LlamaForCausalLM(LlamaConfig(**sizes)), block="conformer", start="random")
    ids = torch.arange(1, 11)[None]
    with torch.no_grad():
        one, two = (
            model(input_ids=ids).logits,
            model(input_ids=ids.flip(1)[:, :0].new_tensor([[*range(1, 10), 15]])).logits,
        )
    assert torch.allclose(one[:, :9], two[:, :9], atol=1e-6)
    assert not torch.allclose(one[:, 9:], two[:, 9:])


@pytest.mark.parametrize("sites", ["ffn", "both"])
def test_sublayers_that_hold_their_own_norm_are_refused(sites):
    sizes = {**SIZES, "vocab_size": 20}
    with pytest.raises(ValueError, match="no module|has no"):
        list(find_sublayers(BertModel(BertConfig(**sizes)), sites))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "conformer", "kernel": 4}, "odd"),
        ({"residual": True}, "parallel always"),
        ({"reduction_factor": 0}, "not positive"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SublayerConfig(**options)
