"""Formula and measurement of stored bits agree on real bitsandbytes layers."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn

from ftcli.models.bits import (
    compute_bits_per_weight,
    compute_stored_bytes,
    measure_bits,
    measure_bytes,
    measure_model_bits,
)


def four_bit(rows, columns, quantization, double_quant):
    layer = Linear4bit(
        columns, rows, bias=False, quant_type=quantization, compress_statistics=double_quant
    )
    return layer.to("cpu")


def test_the_figures_of_the_paper():
    assert compute_bits_per_weight("nf4", double_quant=False) == 4.5
    assert compute_bits_per_weight("nf4", double_quant=True) == pytest.approx(4.127, abs=5e-4)
    assert compute_bits_per_weight("int8") == 8.0
    with pytest.raises(ValueError, match="int3"):
        compute_bits_per_weight("int3")


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(256, 128), (512, 512), (96, 72)])
def test_bytes_of_a_real_four_bit_layer(shape, quantization, double_quant):
    layer = four_bit(*shape, quantization, double_quant)
    assert measure_bytes(layer) == compute_stored_bytes(*shape, quantization, double_quant)


def test_bytes_of_a_real_eight_bit_layer():
    layer = Linear8bitLt(128, 96, bias=False, has_fp16_weights=False).to("cpu")
    assert measure_bytes(layer) == compute_stored_bytes(96, 128, "int8")


@pytest.mark.parametrize("double_quant", [True, False])
def test_measured_bits_approach_the_formula_in_a_large_layer(double_quant):
    layer = four_bit(1024, 2048, "nf4", double_quant)
    assert measure_bits(layer) == pytest.approx(
        compute_bits_per_weight("nf4", double_quant), abs=0.005
    )


def test_bits_of_a_model_leave_out_what_is_not_quantised():
    quantised = four_bit(512, 512, "nf4", True)
    model = nn.Sequential(nn.Linear(512, 512), quantised, nn.LayerNorm(512))
    assert measure_model_bits(model) == measure_bits(quantised)
    assert measure_model_bits(nn.Linear(4, 4)) is None


def test_an_adapter_round_a_layer_is_not_counted_again():
    class Round(nn.Module):
        """A wrapper that shows the weight of its layer and has no shape."""

        def __init__(self, layer):
            super().__init__()
            self.base_layer = layer

        @property
        def weight(self):
            return self.base_layer.weight

    layer = four_bit(64, 64, "nf4", True)
    assert measure_model_bits(Round(layer)) == measure_bits(layer)


def test_a_layer_that_is_not_quantised_says_so():
    with pytest.raises(ValueError, match="no quantised weight"):
        measure_bytes(nn.Linear(4, 4, dtype=torch.float32))
