"""DARE and DAREx: moments over masks, limits, searches, and the analytic q against its definition."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.deltas.delta import Delta
from ftcli.models.anatomy import Anatomy
from ftcli.papers.darex import pruning as darex
from ftcli.papers.darex.calibration import OutputChange, compute_layer_q, compute_mean_inputs
from tests.deltas.fakes import delta, flat, random


def test_q_of_one_minus_p_is_dare_to_the_bit():
    change = random(0)
    dare, same = darex.drop_entries(change, 0.9), darex.drop_entries(change, 0.9, q=1 - 0.9)
    assert torch.equal(flat(dare), flat(same))
    kept = flat(dare) != 0
    assert torch.equal(flat(dare)[kept], flat(change)[kept] / (1 - 0.9))
    assert 0.07 < kept.double().mean() < 0.13
    assert not torch.equal(flat(darex.drop_entries(change, 0.9, seed=1)), flat(dare))


def test_limits_are_the_pretrained_and_the_finetuned_model():
    change = random(0)
    assert flat(darex.drop_entries(change, 0.5, q=math.inf)).abs().max() == 0
    assert torch.equal(flat(darex.drop_entries(change, 0.0, q=1.0)), flat(change))
    for p, q in ((1.0, None), (-0.1, None), (0.5, 0.0)):
        with pytest.raises(UserError):
            darex.drop_entries(change, p, q)


def test_a_mask_depends_on_seed_and_name_alone():
    both = delta({"a": torch.ones(50), "b": torch.ones(50)})
    single = delta({"b": torch.ones(50)})
    assert torch.equal(darex.drop_entries(both, 0.5)["b"], darex.drop_entries(single, 0.5)["b"])
    assert not torch.equal(darex.drop_entries(both, 0.5)["a"], darex.drop_entries(both, 0.5)["b"])


def test_mean_and_variance_of_an_output_are_the_papers():
    """h_i = sum c_ij (1 - m_ij / q): mean (1 - (1-p)/q) S1, variance p (1-p) / q^2 S2."""
    p, q, row = 0.8, 0.35, torch.randn(1, 300, dtype=torch.float64) + 0.3
    change = delta({"w": row})
    drawn = []
    for seed in range(1000):
        drawn.append((change["w"] - darex.drop_entries(change, p, q, seed)["w"]).sum().item())
    result = torch.tensor(drawn, dtype=torch.float64)
    mean = (1 - (1 - p) / q) * row.float().double().sum().item()
    variance = p * (1 - p) / q**2 * row.square().sum().item()
    assert abs(result.mean().item() - mean) < 4 * math.sqrt(variance / 1000)
    assert result.var().item() == pytest.approx(variance, rel=0.2)


def test_the_mean_over_masks_of_an_entry_is_its_share():
    """E[m delta / q] = delta (1 - p) / q, entry by entry."""
    p, q, change = 0.7, 0.5, random(2, (5, 4))
    drawn = torch.stack([darex.drop_entries(change, p, q, seed)["t0"] for seed in range(2000)])
    spread = change["t0"].abs() * math.sqrt(p * (1 - p) / 2000) / q
    assert ((drawn.mean(0) - change["t0"] * (1 - p) / q).abs() < 5 * spread).all()


def test_every_tensor_has_its_own_q():
    change, q = random(3), {"t0": 0.3, "t1": 0.9, "t2": 0.05}
    pruned = darex.drop_entries(change, 0.8, q, seed=7)
    for name in change:
        kept = darex.draw_mask(name, change.shapes[name], 0.8, 7)
        assert torch.equal(pruned[name], change[name] * kept / q[name])


def test_rows_are_dropped_whole():
    pruned = darex.drop_entries(random(1, (64, 9)), 0.5, rows=True)["t0"]
    kept = (pruned != 0).double().mean(1)
    assert set(kept.tolist()) == {0.0, 1.0}


def test_tensors_out_of_scope_keep_their_whole_change(full_run):
    change = Delta.open(full_run)
    names = darex.select_tensors(change, exclude=["*.layers.0.*"])
    pruned = darex.drop_entries(change, 0.99, names=names)
    assert len(names) == 7 * 7 and all("proj" in name for name in names)
    assert all(torch.equal(pruned[n], change[n]) for n in change if n not in names)
    assert (pruned[names[0]] != 0).double().mean() < 0.02
    with pytest.raises(UserError, match="no tensor is left"):
        darex.select_tensors(change, exclude=["*"])


@pytest.mark.parametrize("best", [0.32, 0.7, 0.1])
def test_the_search_refines_around_the_best_of_the_grid(best):
    result, tried = darex.search_grid(lambda q: abs(q - best), lambda a, b: a < b, 0.1, 1.0, 0.1)
    assert result == pytest.approx(best, abs=0.0051)
    assert len(tried) < 32


def test_the_coarse_search_ends_after_four_points_without_improvement():
    asked = []
    darex.search_grid(lambda q: asked.append(q) or q, lambda a, b: a < b, 0.2, 10.0, 0.1)
    assert max(asked[:5]) == pytest.approx(0.6) and max(asked) == pytest.approx(0.6)


def test_the_analytic_q_is_the_minimum_of_its_bound_row_by_row():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(6, 40, generator=generator, dtype=torch.float64) - 0.4
    p, eta, gamma = 0.9, 0.5, 0.95
    q = torch.arange(1 - p, 0.998 + 5e-4, 0.001, dtype=torch.float64)
    best = []
    for row in c:
        s1, s2 = row.sum().item(), row.square().sum().item()
        values = [
            abs(
                eta * (1 - (1 - p) / x) * s1
                + eta**2 * darex.phi(p) * s2 / (4 * x**2)
                + math.log(2 / (1 - gamma))
            )
            for x in q.tolist()
        ]
        best.append(q[values.index(min(values))].item())
    assert darex.analytic_q(c, p, eta, passed=1.0) == pytest.approx(sum(best) / 6)
    guarded = [min(b, sorted(best)[4]) for b in best]  # 80 % of 6 rows are 5
    assert darex.analytic_q(c, p, eta) == pytest.approx(sum(guarded) / 6)


def test_phi_and_the_bits_that_stay():
    assert darex.phi(0.5) == 0.5 and darex.phi(0.99) == pytest.approx(0.98 / math.log(99))
    assert darex.phi(0.4999999) == pytest.approx(0.5, abs=1e-4)
    assert 16 / darex.bits_per_entry(0.99) == pytest.approx(66, abs=0.5)


def test_the_analytic_q_of_a_layer_is_its_biass_too_and_others_get_the_mean():
    generator = torch.Generator().manual_seed(1)
    shapes = {"a.weight": (6, 20), "a.bias": (6,), "b.weight": (4, 6), "norm.weight": (6,)}
    change = delta({n: 3 * torch.randn(s, generator=generator) for n, s in shapes.items()})
    inputs = {"a": torch.randn(20, generator=generator), "b": torch.randn(6, generator=generator)}
    result = compute_layer_q(change, inputs, p=0.9, eta=0.7)
    with_bias = torch.cat([change["a.weight"] * inputs["a"], change["a.bias"][:, None]], dim=1)
    assert result["a.weight"] == result["a.bias"] == darex.analytic_q(with_bias, 0.9, 0.7)
    assert result["b.weight"] == darex.analytic_q(change["b.weight"] * inputs["b"], 0.9, 0.7)
    assert result["norm.weight"] == (result["a.weight"] + result["b.weight"]) / 2
    assert result["a.weight"] != result["b.weight"]


def test_tables_norms_and_heads_are_out_of_scope():
    net = nn.Module()
    net.table, net.norm, net.classifier = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)
    net.blocks = nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(4, 4)}) for _ in range(2))
    change = delta(
        {name: torch.randn_like(p) for name, p in net.named_parameters()},
        source=SimpleNamespace(anatomy=Anatomy(net)),
    )
    names = darex.select_tensors(change)
    assert names == [f"blocks.{i}.mlp.{part}" for i in range(2) for part in ("bias", "weight")]
    pruned = darex.drop_entries(change, 0.99, names=names)
    assert torch.equal(pruned["classifier.weight"], change["classifier.weight"])


def test_searches_without_labels_look_at_the_finetuned_models_outputs(full_run):
    from ftcli.deltas.artefact import Artefact
    from ftcli.deltas.evaluator import RunEvaluator

    change, base = Delta.open(full_run), Artefact.open("asset:llama_mini")
    evaluator = RunEvaluator(full_run, "model")
    moved = OutputChange(evaluator, change.apply(base), rows=2)
    assert moved(change.apply(base)) == 0
    few, many = (moved(darex.drop_entries(change, p).apply(base)) for p in (0.5, 0.99))
    assert 0 < few < many
    inputs = compute_mean_inputs(evaluator, change.apply(base), rows=2)
    result = compute_layer_q(change, inputs, p=0.9, eta=0.5)
    assert len(inputs) == 56 and result.keys() == dict(change.shapes).keys()
    assert all(0.1 - 1e-9 <= q <= 0.999 for q in result.values())
