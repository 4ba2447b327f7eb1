"""Products of a step are those of the layers, and their sum is what a step of LoRA needs."""

from __future__ import annotations

import ceiling
from ceiling import Product
from workload import SHAPES, Shape

SMALL = Shape(2, 8, 16, 2, 1, vocab_size=32)


def test_linears_of_a_block_are_those_of_transformers():
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=1, hidden_size=8, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=32,
    )  # fmt: skip
    block = LlamaForCausalLM(config).model.layers[0]
    layers = [m for m in block.modules() if isinstance(m, nn.Linear)]
    found = sorted((layer.in_features, layer.out_features) for layer in layers)
    assert found == sorted(ceiling.list_linears(SMALL))


def test_operations_are_four_a_weight_and_six_an_adapter_entry():
    counts = ceiling.count_products(SMALL, tokens=10, labels=3, rank=2)
    flops = sum(count * product.flops for product, count in counts.items())
    weights = 2 * sum(k * n for k, n in ceiling.list_linears(SMALL))
    adapters = 2 * sum(2 * (k + n) for k, n in ceiling.list_linears(SMALL))
    assert flops == 10 * (4 * weights + 6 * adapters) + 3 * 4 * 8 * 32


def test_share_adds_the_seconds_of_every_product():
    first, second = Product(1, 2, 3), Product(2, 2, 2)
    found = ceiling.sum_ceiling({first: 2, second: 1}, {first: 0.5, second: 1.0})
    assert found["ceiling_s"] == 2.0
    assert found["gflop"] == (2 * 12 + 16) / 1e9
    assert found["gflop_s"] == found["gflop"] / 2


def test_a_measured_product_takes_time(monkeypatch):
    monkeypatch.setattr(ceiling, "SECONDS", 0.001)
    assert ceiling.time_product(Product(8, 8, 8, True), "float32", "cpu") > 0


def test_shape_is_read_back_from_a_folder(tmp_path):
    import json
    from dataclasses import asdict

    (tmp_path / "config.json").write_text(json.dumps({**asdict(SHAPES["tiny"]), "other": 1}))
    assert ceiling.read_shape(tmp_path) == SHAPES["tiny"]
