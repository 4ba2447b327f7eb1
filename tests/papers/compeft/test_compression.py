"""ComPEFT's algorithm in numbers, its code on disk, and a rank-16 adapter at least 8 times smaller."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ftcli.core.errors import UserError
from ftcli.deltas import storage, ternary
from ftcli.deltas.delta import Delta
from ftcli.deltas.magnitudes import compute_moments, prune_delta, select_largest
from ftcli.papers.compeft import compression as compeft
from tests.deltas.fakes import delta, flat, random


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5])
def test_exactly_the_largest_entries_stay_as_signs_times_alpha_times_std(density):
    change = random(0, (50, 40), (11,), (30, 9))
    compressed, coded = compeft.compress(change, density, alpha=2.0)
    before, after = flat(change), flat(compressed)
    kept = after != 0
    assert int(kept.sum()) == int(len(before) * density) == len(coded.positions)
    assert before[kept].abs().min() >= before[~kept].abs().max()
    scale = 2.0 * before.std(unbiased=True).item()
    assert sorted(set(after.tolist())) == pytest.approx([-scale, 0, scale])
    assert torch.equal(after[kept].sign(), before[kept].sign())


def test_the_threshold_and_the_deviation_are_of_the_whole_vector():
    small, big = torch.randn(100) * 1e-3, torch.randn(100)
    compressed, _ = compeft.compress(delta({"a": small, "b": big}), density=0.25)
    assert compressed["a"].abs().max() == 0 and int((compressed["b"] != 0).sum()) == 50
    whole = torch.cat([small, big]).double()
    assert compressed["b"].abs().max().item() == pytest.approx(whole.std().item(), rel=1e-6)


def test_everything_kept_is_alpha_std_sign_and_scaling_commutes():
    change = random(3)
    compressed = flat(compeft.compress(change, 1.0, 1.5)[0])
    expected = 1.5 * flat(change).std() * flat(change).sign()
    assert (compressed - expected).abs().max() < 1e-6
    scaled = flat(compeft.compress(change.scale(8.0), 0.3)[0])
    assert torch.equal(scaled, 8.0 * flat(compeft.compress(change, 0.3)[0]))


def test_baselines_of_the_paper():
    change = random(4)
    values, kept = flat(change), flat(prune_delta(change, 0.2)) != 0
    assert torch.equal(flat(prune_delta(change, 0.2))[kept], values[kept])
    stc = flat(compeft.compress(change, 0.2, rule="mean")[0])
    assert stc.abs().max().item() == pytest.approx(values[kept].abs().mean().item(), rel=1e-6)
    drawn = flat(compeft.compress(change, 0.2, rule="random")[0]) != 0
    assert int(drawn.sum()) == int(kept.sum()) and not torch.equal(drawn, kept)


def test_among_equal_values_the_first_are_taken():
    change = delta({"a": torch.ones(5), "b": torch.ones(4)})
    masks = torch.cat(list(select_largest(change, 6)))
    assert masks.tolist() == [True] * 6 + [False] * 3
    count, mean, std = compute_moments(change)
    assert (count, mean, std) == (9, 1.0, 0.0)


@pytest.mark.parametrize("codec", ["golomb", "masks"])
@pytest.mark.parametrize("density", [0.004, 0.05, 0.3, 0.9, 1.0])
def test_the_code_is_read_back_exactly(codec, density):
    compressed, coded = compeft.compress(random(5, (123, 45), (3,), (8, 8)), density)
    stored = ternary.decode(ternary.encode(coded, codec))
    assert np.array_equal(stored.positions, coded.positions)
    assert np.array_equal(stored.negative, coded.negative) and stored.scale == coded.scale
    assert all(torch.equal(stored.tensor(n), compressed[n]) for n in compressed)
    with pytest.raises(UserError, match="not a complete ternary delta"):
        ternary.decode(ternary.encode(coded, codec)[:-40])


def test_nothing_at_all_is_a_file_too():
    _, coded = compeft.compress(delta({"a": torch.zeros(10)}), 0.2)
    assert len(ternary.decode(ternary.encode(coded)).positions) == 0


@pytest.mark.parametrize(
    ("density", "entropy", "golomb", "bits"),
    [(0.05, 0.3364, 0.3393, 4), (0.1, 0.5690, 0.5756, 3), (0.2, 0.9219, 0.9388, 2)],
)
def test_bits_an_entry_are_the_papers(density, entropy, golomb, bits):
    assert ternary.entropy(density) == pytest.approx(entropy, abs=1e-4)
    assert ternary.golomb_rate(density) == pytest.approx(golomb, abs=1e-4)
    assert ternary.golomb_bits(density) == bits
    assert ternary.entropy(0.3) == pytest.approx(1.1813, abs=1e-4) and ternary.entropy(0.5) == 1.5


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2, 0.3])
def test_the_file_is_within_two_percent_of_the_formula(density):
    _, coded = compeft.compress(random(6, (700, 700), (300, 400)), density)
    expected = coded.entries * ternary.golomb_rate(density) / 8
    assert len(ternary.encode(coded)) == pytest.approx(expected, rel=0.02)
    masks = len(ternary.encode(coded, "masks"))
    assert masks == pytest.approx(coded.entries / 4, rel=0.01)


def test_products_by_counting_bits_are_dense_products():
    one = compeft.compress(random(7), 0.3)[1]
    two = compeft.compress(random(8), 0.4)[1]
    dense = sum((one.tensor(n) * two.tensor(n)).sum().item() for n in one.shapes)
    assert ternary.inner_product(one, two) == pytest.approx(dense)
    assert ternary.inner_product(one, one) == pytest.approx(len(one.positions) * one.scale**2)


def body(coded: ternary.Ternary, codec: str) -> int:
    """Bytes of the code by its definition: planes of quotients in unary, remainders and signs."""
    if codec == "masks":
        return 2 * -(-coded.entries // 8)
    n, bits = len(coded.positions), ternary.golomb_bits(len(coded.positions) / coded.entries)
    gaps = np.diff(coded.positions, prepend=-1) - 1
    unary = sum(int(gap) // 2**bits + 1 for gap in gaps)
    return -(-unary // 8) + -(-n * bits // 8) + -(-n // 8)


@pytest.mark.parametrize(
    ("codec", "density", "factor"),
    [("golomb", 0.2, 16.0), ("golomb", 0.05, 44.0), ("masks", 0.5, 7.9)],
)
def test_an_adapter_of_rank_16_takes_less_than_an_eighth_on_disk(
    lora_run, tmp_path, codec, density, factor
):
    """Beside the same adapter in 16 bits; two masks are an eighth, less their header."""
    change = Delta.open(lora_run)
    sixteen = {name: change[name].bfloat16() for name in change}
    save_file(sixteen, tmp_path / "adapter.safetensors")
    compressed, coded = compeft.compress(change, density)
    data = ternary.encode(coded, codec)
    storage.save_delta(compressed, tmp_path / "delta", coded=data)
    size = (tmp_path / "delta" / "delta.ternary").stat().st_size
    header = 8 + int.from_bytes(data[4:8], "little")
    assert size == len(data) == header + body(coded, codec) and header < 1500
    assert (tmp_path / "adapter.safetensors").stat().st_size / size > factor
    stored = Delta.open(tmp_path / "delta")
    assert stored.kind == "adapter" and stored.base == change.base
    assert all(torch.equal(stored[name], compressed[name]) for name in compressed)


def test_the_search_takes_the_best_on_held_out_rows():
    change = random(9)
    target = flat(compeft.compress(change, 0.3, 4.0)[0])
    result = compeft.search_settings(
        change, lambda d: (flat(d) - target).norm().item(), lambda a, b: a < b,
        densities=(0.1, 0.3), alphas=(1.0, 4.0),
    )  # fmt: skip
    assert result[:2] == (0.3, 4.0) and len(result[2]) == 4
    compressed, _ = compeft.tune_scale(
        change, (0.1, 0.3), lambda d, _: (flat(d) - target).norm().item()
    )
    assert torch.equal(flat(compressed), target)
