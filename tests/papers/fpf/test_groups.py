"""Groups name every tensor once, selections choose them, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.papers.fpf.groups import list_groups, select_groups, train_only
from ftcli.papers.fpf.model import ResNetSource
from ftcli.papers.fpf.sensitivity import ACROSS, WITHIN, Sensitivity


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 3),
    )  # fmt: skip


def names(*selection: str) -> list[str]:
    return [group.name for group in select_groups(small(), selection)]


def test_groups_are_all_parameters_and_statistics():
    model = small()
    groups = list_groups(model)
    assert sum(t.numel() for g in groups if not g.is_statistics for t in g.tensors) == sum(
        p.numel() for p in model.parameters()
    )
    assert [g.name for g in groups if g.is_statistics] == ["1.statistics", "3.statistics"]
    assert [g.kind for g in groups[:3]] == ["conv weight", "conv bias", "batchnorm weight"]


def test_selections():
    assert names("last_linear") == ["7.weight", "7.bias"]
    assert names("first_conv") == ["0.weight", "0.bias"]
    assert names("batchnorm") == [
        f"{m}.{n}" for m in (1, 3) for n in ("weight", "bias", "statistics")
    ]
    assert names("norms") == names("batchnorm")
    assert names("*.statistics") == ["1.statistics", "3.statistics"]
    with pytest.raises(UserError, match="names none"):
        names("layernorm.*")


def test_statistics_of_a_norm_without_weights_are_a_group():
    groups = list_groups(nn.Sequential(nn.BatchNorm1d(3, affine=False)))
    assert [(g.name, g.kind, g.is_statistics) for g in groups] == [
        ("0.statistics", "batchnorm statistics", True)
    ]


def test_tied_parameters_are_one_group():
    model = nn.ModuleList([nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)])
    model[1].weight = model[0].weight
    assert len(list_groups(model)) == 1
    assert [group.name for group in select_groups(model, ["last_linear"])] == ["0.weight"]


@pytest.mark.parametrize(
    "selection", [["last_linear"], ["batchnorm"], ["1.weight"], ["1.statistics"]]
)
def test_only_selected_groups_move(selection):
    model = small()
    groups = list_groups(model)
    chosen = select_groups(model, selection)
    before = {group.name: [t.detach().clone() for t in group.tensors] for group in groups}
    counters = [int(m.num_batches_tracked) for m in model if isinstance(m, nn.BatchNorm2d)]
    model.train()
    with train_only(model, chosen):
        trained = [p for p in model.parameters() if p.requires_grad]
        loss = model(torch.randn(6, 1, 9, 9)).square().sum()
        if trained:
            loss.backward()
            torch.optim.SGD(trained, lr=0.1).step()
    moved = {
        group.name
        for group in groups
        if not all(
            torch.equal(a, b) for a, b in zip(before[group.name], group.tensors, strict=True)
        )
    }
    assert moved == {group.name for group in chosen}
    after = [int(m.num_batches_tracked) for m in model if isinstance(m, nn.BatchNorm2d)]
    held = [not any(g.name == f"{m}.statistics" for g in chosen) for m in (1, 3)]
    assert [a == b for a, b in zip(counters, after, strict=True)] == held
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_train_only_restores_what_was_frozen_before():
    model = small()
    model[0].weight.requires_grad_(False)
    with train_only(model, list_groups(model)):
        assert not model[0].weight.requires_grad
    assert not model[0].weight.requires_grad and model[0].bias.requires_grad


def test_resnet18_has_the_paper_s_counts():
    model = ResNetSource(path="ftcli/resnet", labels=10).build_meta_model()

    def count(*selection: str) -> int:
        chosen = select_groups(model, selection)
        return sum(t.numel() for g in chosen if not g.is_statistics for t in g.tensors)

    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert count("batchnorm") == 9_600
    assert count("last_linear") == 5_130
    assert count("batchnorm", "last_linear") / 11_173_962 < 0.01


def test_sensitivity_is_the_mean_change_of_an_entry():
    model = small()
    sensitivity = Sensitivity(list_groups(model))
    with torch.no_grad():
        model[0].weight += 0.5
        model[6].bias[0] -= 1.0  # one of five entries
        sensitivity.record(WITHIN)
        model[3].running_mean += 2.0  # half of mean and variance
        model[7].weight += torch.tensor([0.25, -0.25, 0.25, -0.25, 0.25])
        sensitivity.record(ACROSS)
    number = {group.name: i for i, group in enumerate(sensitivity.groups)}
    within, across = sensitivity.mean(WITHIN), sensitivity.mean(ACROSS)
    assert within[number["0.weight"]] == pytest.approx(0.5, abs=1e-6)
    assert within[number["6.bias"]] == pytest.approx(0.2, abs=1e-6)
    assert across[number["3.statistics"]] == pytest.approx(1.0, abs=1e-6)
    assert across[number["7.weight"]] == pytest.approx(0.25, abs=1e-6)
    assert within[number["2.weight"]] == across[number["2.weight"]] == 0  # never moved
    assert [g.name for g in sensitivity.rank_groups()[:2]] == ["3.statistics", "7.weight"]
    assert [g.name for g in sensitivity.take_top(0.01)] == [
        "7.weight",
        "1.statistics",
        "3.statistics",
    ]


def test_sensitivity_before_a_change_of_task_is_that_within_it():
    model = small()
    sensitivity = Sensitivity(list_groups(model))
    with torch.no_grad():
        model[2].weight += 0.1
        model[6].weight -= 0.3
    sensitivity.record(WITHIN)
    assert [g.name for g in sensitivity.rank_groups()[:2]] == ["6.weight", "2.weight"]


def test_sensitivity_leaves_out_what_moves_in_a_phase():
    model = small()
    sensitivity = Sensitivity(list_groups(model))
    with torch.no_grad():
        model[7].bias += 0.5
        with sensitivity.ignore():
            model[7].bias -= 8.0
        model[7].bias += 0.25
    sensitivity.record(ACROSS)
    assert sensitivity.mean(ACROSS)[-1] == pytest.approx(0.75, abs=1e-6)
