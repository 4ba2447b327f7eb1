"""KL to the pretrained model, entropy and spectrum as scores of a run."""

from __future__ import annotations

import torch

from ftcli.config import compose, validate_and_convert
from ftcli.run.build import build_run


def scores(*overrides: str, wake: bool = False):
    composed = compose("qlora_mini", [
        "eval=outputs", "data.limit=40", "data.validation=0.2", "model.quantization=none",
        "model.dtype=float32", "trainer.precision=fp32", "method.r=4", "trainer.batch_size=4", *overrides,
    ])  # fmt: skip
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    if wake:
        torch.manual_seed(0)
        with torch.no_grad():
            for p in run.model.parameters():
                if p.requires_grad:
                    p.add_(0.02 * torch.randn(p.shape))
    return run.evaluators["outputs"](run)


def test_a_fresh_adapter_is_its_base_and_a_moved_one_is_not():
    for method in ("lora", "pissa"):
        fresh, moved = scores(f"method={method}"), scores(f"method={method}", wake=True)
        assert abs(fresh["teacher_kl"]) < 1e-6 < 1e-3 < moved["teacher_kl"]
        assert 0 < fresh["entropy"] < 8.32  # log 4096
        assert 0 < fresh["top_mass"] < 1


def test_the_batch_size_does_not_matter_where_the_mean_is_over_tokens():
    small, large = (
        scores("method=lora", f"eval.outputs.batch_size={n}", wake=True) for n in (2, 8)
    )
    assert abs(small["teacher_kl"] - large["teacher_kl"]) < 1e-5
    assert abs(small["entropy"] - large["entropy"]) < 1e-4
