"""LiNeS: the schedule in numbers, its limits, mergers of several tasks, and LoRA's factors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.deltas.artefact import Artefact
from ftcli.deltas.delta import Delta, sum_deltas
from ftcli.deltas.positions import find_positions
from ftcli.models.anatomy import Anatomy
from ftcli.papers.lines import scaling as lines
from tests.deltas.fakes import delta, flat

BASE = "asset:llama_mini"


class Net(nn.Module):
    """Four blocks whose own parts have numbers too, a table before and a norm and a head behind."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))})
            for _ in range(4)
        )
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def change(net):
    return delta({name: torch.randn_like(p) for name, p in net.named_parameters()})


def factors(change: Delta, scaled: Delta) -> dict[str, float]:
    return {n: (scaled[n] / change[n]).mean().item() for n in change}


def test_twelve_blocks_of_an_eighth_and_a_half_are_the_papers_numbers():
    ramp = [lines.depth_factor(1 / 8, 0.5, index, 12) for index in range(12)]
    assert ramp[0] == 0.125 and ramp[-1] == 0.625
    assert ramp[1] == pytest.approx(0.17045, abs=1e-5)
    steps = torch.tensor(ramp, dtype=torch.float64).diff()
    assert (steps - 0.5 / 11).abs().max() < 1e-12
    assert lines.depth_factor(0.3, 0.7, 0, 1) == 1  # no division by L - 1 = 0


def test_blocks_are_those_of_the_model_whatever_numbers_a_name_has_besides(net, change):
    scaled = lines.scale_by_depth(change, 0.1, 0.6, anatomy=Anatomy(net))
    for name, value in factors(change, scaled).items():
        block = int(name.split(".")[1]) if name.startswith("blocks.") else None
        expected = 0.1 if block is None else 0.1 + 0.6 * block / 3
        assert value == pytest.approx(expected), name


def test_it_is_the_published_rule_where_a_name_has_one_number():
    """The first `.l.` of a name is its block; what has none gets alpha, a final norm included."""
    names = [f"visual.blocks.{i}.{part}.weight" for i in range(12) for part in ("ln", "attn.out")]
    names += ["visual.patch.weight", "visual.norm.weight", "visual.proj.weight"]
    stack = SimpleNamespace(name="visual.blocks", blocks=range(12))
    change = delta({name: torch.randn(3, 2) for name in names})
    scaled = lines.scale_by_depth(change, 0.2, 0.6, anatomy=SimpleNamespace(stacks=[stack]))
    for name in names:
        block = next((i for i in range(12) if f".{i}." in name), None)
        rule = 0.2 if block is None else 0.2 + 0.6 * block / 11
        assert torch.equal(scaled[name], change[name] * rule), name


def test_behind_the_blocks_the_last_factor_by_position(net, change):
    ratios = factors(change, lines.scale_by_depth(change, 0.1, 0.6, "by_position", Anatomy(net)))
    assert ratios["table.weight"] == pytest.approx(0.1)
    assert [ratios["norm.weight"], ratios["head.bias"]] == pytest.approx([0.7, 0.7])


def test_gamma_goes_from_the_finetuned_model_to_its_last_block(net, change):
    whole = lines.scale_by_depth(change, *lines.single_task_factors(1.0), anatomy=Anatomy(net))
    assert torch.equal(flat(whole), flat(change))
    none = lines.scale_by_depth(change, *lines.single_task_factors(0.0), anatomy=Anatomy(net))
    for name in change:
        if name.startswith("blocks.3."):
            assert torch.equal(none[name], change[name])
        elif not name.startswith(("blocks.1.", "blocks.2.")):
            assert none[name].abs().max() == 0


def test_it_is_linear_and_without_slope_it_is_task_arithmetic(net, change):
    anatomy = Anatomy(net)
    doubled = lines.scale_by_depth(change.scale(2.0), 0.2, 0.5, anatomy=anatomy)
    assert torch.equal(
        flat(doubled), 2 * flat(lines.scale_by_depth(change, 0.2, 0.5, anatomy=anatomy))
    )
    flat_line = lines.scale_by_depth(change, 0.25, 0.0, anatomy=anatomy)
    assert torch.equal(flat(flat_line), flat(change.scale(0.25)))


def test_alpha_of_task_arithmetic_is_one_over_n(change):
    tasks = [change, change.scale(-0.5), change.map(lambda _, t: t.flip(0), "")]
    merged = sum_deltas(tasks)
    assert lines.merged_alpha(tasks, merged) == pytest.approx(1 / 3)
    assert lines.merged_alpha(tasks, merged.scale(0.5)) == pytest.approx(2 / 3)


def test_two_stacks_have_a_depth_each():
    import transformers

    config = transformers.T5Config(
        vocab_size=32, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_decoder_layers=3, num_heads=2
    )
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(config)
    places = find_positions(Anatomy(model), [name for name, _ in model.named_parameters()])
    assert places["encoder.block.1.layer.0.SelfAttention.q.weight"] == (1, 2)
    assert places["decoder.block.1.layer.2.DenseReluDense.wi.weight"] == (1, 3)
    assert places["shared.weight"] is None


def test_scaling_loras_second_factor_scales_its_product(lora_run):
    factored = lines.scale_by_depth(Delta.open(lora_run), 0.3, 0.7)
    whole = lines.scale_by_depth(Delta.open(lora_run, product=True), 0.3, 0.7)
    from ftcli.deltas.product import multiply_factors

    product = multiply_factors(factored)
    assert all(torch.allclose(product[n], whole[n], rtol=1e-6, atol=1e-12) for n in whole)
    name = next(n for n in factored if "lora_A" in n)
    assert torch.equal(factored[name], Delta.open(lora_run)[name])


def test_the_search_weighs_the_target_twice():
    chosen, tried = lines.search_gamma(
        lambda g: (2 - g, 1 + 2.5 * g), finetuned=1.0, pretrained=1.0
    )
    assert chosen == 0.0 and len(tried) == 11 and tried[1.0] == pytest.approx(5.5)
    assert lines.search_gamma(lambda g: (2 - g, 1 + 1.5 * g), 1.0, 1.0)[0] == 1.0


def test_the_shipped_llama_has_eight_blocks():
    anatomy = Artefact.open(BASE).anatomy
    places = find_positions(anatomy, ["model.layers.7.mlp.up_proj.weight", "model.norm.weight"])
    assert list(places.values()) == [(7, 8), None]
