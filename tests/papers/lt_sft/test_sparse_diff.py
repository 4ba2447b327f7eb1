"""Sparse differences: files, application to a model and back, and addition."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ftcli.core.errors import UserError
from ftcli.papers.lt_sft import sparse_diff


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))


def draw_diff(model, seed, share=0.3):
    """A difference at some entries of the first layer, with the second as a head."""
    generator = torch.Generator().manual_seed(seed)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith("0")}
    moved = {
        n: t + torch.randn(t.shape, generator=generator) * (torch.rand(t.shape) < share)
        for n, t in start.items()
    }
    return sparse_diff.take_diff(start, moved, {"1.bias": torch.full((3,), float(seed))}), moved


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_applied_it_gives_the_trained_weights_and_the_head(model):
    diff, moved = draw_diff(model, 1)
    diff.apply(model)
    assert all((model.get_parameter(n) - t).abs().max() < 1e-6 for n, t in moved.items())
    assert model[1].bias.tolist() == [1, 1, 1]


def test_its_head_does_not_follow_the_model(model):
    diff = sparse_diff.take_diff({}, {}, {"1.bias": model[1].bias})
    before = model[1].bias.tolist()
    with torch.no_grad():
        model[1].bias.zero_()
    assert diff.dense["1.bias"].tolist() == before


def test_without_its_head_the_model_keeps_its_own(model):
    before = model[1].bias.tolist()
    draw_diff(model, 1)[0].apply(model, with_dense=False)
    assert model[1].bias.tolist() == before


def test_reverted_it_is_the_start_to_rounding(model):
    before, (diff, _) = weights(model), draw_diff(model, 1)
    diff.apply(model, with_dense=False)
    diff.revert(model)
    assert all((p - before[n]).abs().max() < 1e-6 for n, p in model.named_parameters())


def test_the_order_of_two_makes_no_difference(model):
    first, second = draw_diff(model, 1, 0.6)[0], draw_diff(model, 2, 0.6)[0]
    start, results = weights(model), []
    for order in ((first, second), (second, first)):
        model.load_state_dict(start)
        for diff in order:
            diff.apply(model, with_dense=False)
        results.append(weights(model))
    assert all((results[0][n] - results[1][n]).abs().max() < 1e-6 for n in start)
    both = first.expand("0.weight") + second.expand("0.weight")
    assert (results[0]["0.weight"] - start["0.weight"] - both).abs().max() < 1e-6


def test_differences_up_to_1e_7_count_as_none():
    start = {"a": torch.zeros(4)}
    diff = sparse_diff.take_diff(start, {"a": torch.tensor([1e-7, -9e-8, 2e-7, 1.0])})
    assert diff.positions["a"].tolist() == [2, 3]
    assert diff.entries == 2


def test_a_file_holds_it_all(model, tmp_path):
    diff, _ = draw_diff(model, 1)
    sparse_diff.save_diff(diff, tmp_path / "diff.safetensors")
    read = sparse_diff.load_diff(tmp_path / "diff.safetensors")
    assert read.shapes == diff.shapes
    assert all(torch.equal(read.positions[n], diff.positions[n]) for n in diff.shapes)
    assert all(torch.equal(read.values[n], diff.values[n]) for n in diff.shapes)
    assert torch.equal(read.dense["1.bias"], diff.dense["1.bias"])


def test_a_file_takes_eight_bytes_an_entry(tmp_path):
    torch.manual_seed(0)
    start = {"a": torch.zeros(1000, 100)}
    trained = {"a": (torch.rand(1000, 100) < 0.08).float()}
    diff = sparse_diff.take_diff(start, trained)
    sparse_diff.save_diff(diff, tmp_path / "diff.safetensors")
    size = (tmp_path / "diff.safetensors").stat().st_size
    assert 0 <= size - 8 * diff.entries < 500  # the header


def test_positions_beyond_int32_are_read_back():
    """Steps fit into 32 bits where their sum does not: the authors' decoder sums in int32."""
    positions = torch.tensor([5, 2**30, 2**31 + 7, 2**32 + 1])
    steps = sparse_diff.encode_positions(positions, (2**17, 2**17))
    assert torch.equal(sparse_diff.decode_positions(steps), positions)
    assert torch.equal(sparse_diff.decode_positions(steps.int()), positions)


def test_masks_survive_a_file(tmp_path):
    torch.manual_seed(0)
    masks = {"a": torch.rand(5, 7) < 0.4, "b": torch.zeros(3, dtype=torch.bool)}
    sparse_diff.save_masks(masks, tmp_path / "masks.safetensors")
    like = {n: torch.zeros(m.shape) for n, m in masks.items()}
    read = sparse_diff.load_masks(tmp_path / "masks.safetensors", like)
    assert all(torch.equal(read[n], masks[n]) for n in masks)
    assert [path.name for path in tmp_path.iterdir()] == ["masks.safetensors"]


def test_another_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no sparse differences"):
        sparse_diff.load_diff(tmp_path / "model.safetensors")
