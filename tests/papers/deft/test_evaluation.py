"""Counted shares of active neurons, on real tokens only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from ftcli.config import compose, validate_and_convert
from ftcli.core.hooks import Probes
from ftcli.papers.deft.activations import mlp_activations
from ftcli.papers.deft.evaluation import ActivationDensity
from ftcli.run.build import build_run

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip
PADDED = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "labels": torch.tensor([[5, 6, 7, 8], [9, 10, -100, -100]]),
    "indices": [0, 1],
    "num_supervised": 4,
}


class Fixed:
    """A run over given batches; its objective is a forward pass."""

    def __init__(self, model, batches):
        self.model, self.tokenizer, self.trainer = model, None, SimpleNamespace(batch_size=2)
        self.data = SimpleNamespace(loader=lambda *args, **options: batches)

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def objective(self, model, batch):
        names = (
            "input_ids",
            "attention_mask",
            *(["labels"] if model.config.is_encoder_decoder else []),
        )
        model(**{name: batch[name] for name in names})


def llama(act="relu"):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act=act))


def count_shares(model, threshold, of=lambda tap: True):
    """Mean over layers of the share of |a| > threshold (>= for one above 0), the direct way."""
    taps = [tap for tap in mlp_activations(model) if of(tap)]
    with torch.no_grad(), Probes({tap.name: tap.module for tap in taps}) as probes:
        Fixed(model, []).objective(model, PADDED)
        activations = probes.take()
    decoder = [model.config.is_encoder_decoder and tap.role == "decoder" for tap in taps]
    masks = [PADDED["labels"] != -100 if d else PADDED["attention_mask"].bool() for d in decoder]
    sizes = [activations[tap.name][0][mask].abs() for tap, mask in zip(taps, masks, strict=True)]
    shares = [((a >= threshold) & (a > 0)).float().mean() for a in sizes]
    return torch.stack(shares).mean().item()


def test_exact_zeros_of_relu_and_a_threshold_without_padding():
    model = llama()
    scores = ActivationDensity(thresholds=[0.0005, 0.002])(Fixed(model, [PADDED]))
    assert scores.keys() == {"density", "density_0.0005", "density_0.002"}
    for name, t in (("density", 0), ("density_0.0005", 0.0005), ("density_0.002", 0.002)):
        assert scores[name] == pytest.approx(count_shares(model, t), rel=1e-6)
    assert 0.2 < scores["density"] < 0.8
    assert scores["density"] > scores["density_0.0005"] > scores["density_0.002"]


def test_silu_is_never_exactly_zero():
    scores = ActivationDensity()(Fixed(llama("silu"), [PADDED]))
    assert scores["density"] == 1.0 and scores["density_0.001"] < 1.0


def test_shares_are_of_all_tokens_and_not_means_of_batches():
    model = llama()
    short = {k: v[1:] if isinstance(v, torch.Tensor) else v for k, v in PADDED.items()}
    long = {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in PADDED.items()}
    scores = ActivationDensity()(Fixed(model, [short, long]))
    assert scores == pytest.approx(ActivationDensity()(Fixed(model, [PADDED])), rel=1e-6)


def test_an_encoder_decoder_has_both_sides():
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(
        d_model=32, d_kv=16, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=2, vocab_size=64,
        decoder_start_token_id=0,
    ))  # fmt: skip
    scores = ActivationDensity(thresholds=[])(Fixed(model, [PADDED]))
    sides = {
        s: count_shares(model.eval(), 0, lambda tap, s=s: tap.role == s)
        for s in ("encoder", "decoder")
    }
    for side, share in sides.items():
        assert scores[f"density_{side}"] == pytest.approx(share, rel=1e-6)
    assert scores["density"] == pytest.approx(sum(sides.values()) / 2, rel=1e-6)


def test_in_a_run_it_leaves_no_hook_and_changes_nothing():
    composed = compose("qlora_mini", [
        "eval=[loss,activation_density]", "data.limit=40", "data.validation=0.2", "method.r=4",
        "eval.activation_density.limit=4", "trainer.batch_size=2",
    ])  # fmt: skip
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    run.model.train()
    scores = run.evaluators["activation_density"](run)
    assert scores == run.evaluators["activation_density"](run)
    assert scores["density"] == 1.0 and 0.9 < scores["density_0.001"] < 1.0
    assert run.model.training and not any(m._forward_hooks for m in run.model.modules())
