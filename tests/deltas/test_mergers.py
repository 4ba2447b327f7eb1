"""Several changes put into one, against loops over their entries; compressed ones from their bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.deltas import ternary
from ftcli.deltas.delta import Delta, sum_deltas
from ftcli.deltas.mergers import merge_consensus, merge_deltas, merge_ties
from ftcli.papers.compeft import compression as compeft
from ftcli.papers.lines import scaling as lines
from ftcli.papers.model_soups import soup
from tests.deltas.fakes import delta, flat, random

TASKS = [random(seed) for seed in range(4)]


def one(*values: float) -> Delta:
    return delta({"w": torch.tensor(values)})


def test_ties_by_hand():
    """Of six entries three stay; the elected signs are those of 1 - 4, 2 + 3, 0, -6 and 5 - 1."""
    first = one(1.0, 2.0, 0.1, 0.2, 5.0, 0.3)
    second = one(-4.0, 3.0, 0.2, 0.1, -1.0, 0.3)
    third = one(0.1, 0.2, 0.3, -6.0, 4.0, 0.5)
    merged = merge_ties([first, second, third], density=0.5)["w"]
    assert merged.tolist() == pytest.approx([-4.0, 2.5, 0.0, -6.0, 4.5, 0.5])


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_trim_elect_and_disjoint_mean(density):
    vectors = [flat(task) for task in TASKS]
    keep = int(len(vectors[0]) * density)
    kept = [v.abs().argsort(descending=True)[:keep] for v in vectors]
    trimmed = [torch.zeros_like(v).scatter(0, i, v[i]) for v, i in zip(vectors, kept, strict=True)]
    expected = []
    for entries in zip(*(v.tolist() for v in trimmed), strict=True):
        total = sum(entries)
        same = [value for value in entries if value * total > 0]
        expected.append(sum(same) / len(same) if same else 0.0)
    merged = flat(merge_ties(TASKS, density))
    assert torch.allclose(merged, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_an_entry_on_which_two_tasks_disagree_evenly_is_left():
    assert merge_ties([one(1.0, 2.0), one(-1.0, 2.0)], density=1.0)["w"].tolist() == [0.0, 2.0]


def test_consensus_keeps_what_two_tasks_need():
    vectors = [flat(task).tolist() for task in TASKS]
    expected = []
    for entries in zip(*vectors, strict=True):
        total = sum(entries)
        needed = [abs(t) >= 0.4 * abs(total - t) for t in entries]
        expected.append(total if sum(needed) >= 2 else 0.0)
    merged = flat(merge_consensus(TASKS))
    assert torch.allclose(merged, torch.tensor(expected, dtype=torch.float64))
    assert 0 < (merged == 0).double().mean() < 1


def test_task_arithmetic_is_base_plus_lambda_times_the_sum():
    base = {name: torch.randn(shape) for name, shape in TASKS[0].shapes.items()}
    weights = merge_deltas(TASKS).scale(0.3).add_to(base)
    for name in base:
        total = sum(task[name] for task in TASKS)
        assert torch.equal(weights[name], (base[name].double() + 0.3 * total).float())


def test_alpha_of_a_merger_makes_its_first_block_as_large_as_the_mean():
    """alpha |merged|_1 = |sum|_1 / N, whatever the merger."""
    for merger in ("sum", "ties", "consensus"):
        whole = merge_deltas(TASKS, merger)
        alpha = lines.merged_alpha(TASKS, whole)
        size = flat(sum_deltas(TASKS)).abs().sum() / len(TASKS)
        assert alpha * flat(whole).abs().sum().item() == pytest.approx(size.item())


@pytest.mark.parametrize("codec", ["golomb", "masks"])
def test_compressed_changes_are_merged_as_if_they_were_dense(codec):
    """ComPEFT's use: what was compressed takes the place of the change in every merger."""
    dense, loaded = [], []
    for task, density in zip(TASKS, (0.05, 0.1, 0.3, 0.5), strict=True):
        compressed, coded = compeft.compress(task, density, alpha=2.0)
        again = ternary.decode(ternary.encode(coded, codec))
        dense.append(flat(compressed))
        loaded.append(replace(task, read=again.tensor))
    stack = torch.stack(dense)
    assert torch.allclose(flat(soup.average_uniformly(loaded)), stack.mean(0), atol=1e-15)
    assert torch.allclose(
        flat(sum_deltas(loaded, [1, -2, 0.5, 3])),
        stack[0] - 2 * stack[1] + stack[2] / 2 + 3 * stack[3],
    )
    whole = merge_ties(loaded, density=1.0)
    agreeing = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
    assert torch.allclose(flat(whole), (stack * agreeing).sum(0) / agreeing.sum(0).clamp(min=1))


def test_distances_of_compressed_changes_by_counting_bits():
    coded = [compeft.compress(task, 0.2)[1] for task in TASKS]
    for one_, other in itertools.combinations(coded, 2):
        dense = sum((one_.tensor(n) - other.tensor(n)).square().sum().item() for n in one_.shapes)
        counted = (
            ternary.inner_product(one_, one_)
            + ternary.inner_product(other, other)
            - 2 * ternary.inner_product(one_, other)
        )
        assert counted == pytest.approx(dense)


def test_changes_of_other_bases_are_not_merged():
    for merger in ("sum", "ties", "consensus"):
        with pytest.raises(UserError, match="different base"):
            merge_deltas([random(0), replace(random(1), base="other")], merger)
