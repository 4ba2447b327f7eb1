"""LoRA as one autograd function: values and gradients against PEFT's layers and against float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ftcli.methods.fused_lora import install_fused_forward

WIDTH, OUT, RANK = 64, 96, 4


class Small(nn.Module):
    """One linear layer, in a module as PEFT needs it."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.linear: nn.Module = nn.Linear(WIDTH, OUT, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return torch.as_tensor(self.linear(x))


def pack(model: Small) -> None:
    """Replace the layer by one of 4 bits."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    weight: Any = model.linear.weight
    model.linear = Linear4bit(WIDTH, OUT, bias=False, compute_dtype=torch.bfloat16)
    model.linear.weight = Params4bit(weight.data.bfloat16(), quant_type="nf4", module=model.linear)
    model.to("cpu")


def adapted(kind: str = "fp32", **options: Any) -> nn.Module:
    """Return PEFT's model with an adapter whose second matrix is not zero."""
    torch.manual_seed(0)
    model = Small(bias=kind == "bias")
    if kind == "bf16":
        model.bfloat16()
    if kind == "nf4":
        pack(model)
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules=["linear"], **options)
    wrapped = get_peft_model(model, config)
    nn.init.normal_(layer_of(wrapped).lora_B["default"].weight, std=0.1)
    return wrapped


def fused(kind: str = "fp32", **options: Any) -> nn.Module:
    model = adapted(kind, **options)
    install_fused_forward(model)
    return model


def layer_of(model: Any) -> Any:
    return model.base_model.model.linear


def compute(model: nn.Module, dtype: torch.dtype, autocast: bool = True) -> dict[str, Tensor]:
    """Return the output, and the gradients of input and adapter, for fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(2, 5, OUT, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    (y * weight.to(y.dtype)).sum().backward()
    small = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **small}  # type: ignore[dict-item]


def largest_error(values: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the largest difference of a tensor from its exact value, in units of the largest entry."""
    return max(
        float((values[n].double() - exact[n].double()).abs().max() / exact[n].abs().max())
        for n in exact
    )


def exact_values(kind: str) -> dict[str, Tensor]:
    """Return what float64 computes with the weights of `kind`."""
    model = adapted(kind)
    if kind == "nf4":
        from bitsandbytes.functional import dequantize_4bit

        weight = layer_of(model).base_layer.weight
        dense = dequantize_4bit(weight.data, weight.quant_state)
        plain = adapted("fp32")
        layer_of(plain).base_layer.weight.data = dense.float()
        plain.load_state_dict(
            {n: p for n, p in model.state_dict().items() if "lora_" in n}, strict=False
        )
        model = plain
    return compute(model.double(), torch.float64, autocast=False)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "bias", "nf4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_as_close_to_exact_ones_as_pefts(kind, dtype):
    exact = exact_values(kind)
    mine, theirs = compute(fused(kind), dtype), compute(adapted(kind), dtype)
    assert mine.keys() == theirs.keys() == exact.keys()
    assert {n: v.dtype for n, v in mine.items()} == {n: v.dtype for n, v in theirs.items()}
    error = largest_error(mine, exact)
    assert error < 0.02  # bfloat16 has 8 bits
    assert error < 1.5 * largest_error(theirs, exact)


def test_in_float32_it_is_pefts_forward_to_the_bit():
    mine = compute(fused(), torch.float32, autocast=False)
    theirs = compute(adapted(), torch.float32, autocast=False)
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


def test_products_stay_in_float32_where_the_precision_is_fp32():
    mine = compute(fused("bf16"), torch.bfloat16, autocast=False)
    theirs = compute(adapted("bf16"), torch.bfloat16, autocast=False)
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_other_adapters_run_as_pefts(options):
    mine, theirs = fused("bf16", **options), adapted("bf16", **options)
    values, expected = compute(mine, torch.bfloat16), compute(theirs, torch.bfloat16)
    assert all(torch.equal(values[n], expected[n]) for n in expected)


def test_dropout_drops_in_training_and_not_in_evaluation():
    model, x = fused("bf16", lora_dropout=0.9), torch.ones(1, 3, WIDTH, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))
        assert torch.equal(model(x), fused("bf16").eval()(x))


def test_a_disabled_adapter_has_no_effect_and_a_second_one_has():
    model, x = fused("bf16"), torch.ones(1, 3, WIDTH, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        first, base = model(x), layer_of(model).base_layer(x)
        with model.disable_adapter():
            assert torch.equal(model(x), base)
        model.add_adapter("second", LoraConfig(r=2, target_modules=["linear"]))
        nn.init.normal_(layer_of(model).lora_B["second"].weight)
        model.base_model.set_adapter(["default", "second"])
        assert not torch.allclose(model(x), first)


def test_hooks_of_the_layers_inside_still_run():
    model, seen = fused("bf16"), []
    layer_of(model).base_layer.register_forward_hook(lambda *_: seen.append("base"))
    layer_of(model).lora_A["default"].register_forward_pre_hook(lambda *_: seen.append("A"))
    compute(model, torch.bfloat16)
    assert seen == ["base", "A"]


def test_a_merged_layer_gives_what_it_gave_before():
    model, x = fused("fp32"), torch.randn(1, 3, WIDTH)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = model(x)
        merged = model.merge_and_unload()
        assert type(merged.linear) is nn.Linear
        assert torch.allclose(merged(x).float(), before.float(), atol=0.05)


def test_a_copy_computes_the_same():
    model = fused("nf4")
    twin = copy.deepcopy(model)
    values, expected = compute(twin, torch.bfloat16), compute(model, torch.bfloat16)
    assert all(torch.equal(values[n], expected[n]) for n in expected)


@pytest.mark.parametrize("kind", ["bf16", "nf4"])
def test_autograd_keeps_the_input_and_small_matrices_only(kind):
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(8, 32, WIDTH).bfloat16().requires_grad_()
    with saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        y = fused(kind)(x)
    small = 2 * RANK * (WIDTH + OUT + 8 * 32)
    assert sum(kept.values()) == x.numel() * 2 + small
    assert y.requires_grad
