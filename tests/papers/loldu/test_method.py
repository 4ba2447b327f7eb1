"""LoLDU: the factors are the weight, only diagonal entries move, and they alone are kept."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification, ViTConfig, ViTModel

from ftcli.papers.loldu.method import FLOOR, LolduConfig, LolduLinear, ldu
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama
from tests.methods.tuners.kinds import KINDS, build, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("shape", [(64, 64), (96, 40), (40, 96)])
def test_the_factors_give_the_weight(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    lower, diagonal, upper = ldu(weight)
    k = min(shape)
    assert lower.shape == (shape[0], k) and upper.shape == (k, shape[1]) and diagonal.shape == (k,)
    assert ((lower * diagonal) @ upper - weight).norm() < 1e-4 * weight.norm()
    assert torch.equal(upper.tril(-1), torch.zeros_like(upper))
    assert (upper.diagonal() - 1).abs().max() < 1e-6
    ones = (lower == 1).any(0)  # P only exchanges the rows of a unit lower triangle
    assert ones.all() and lower.abs().max() <= 1


def test_factors_of_a_singular_weight_stay_finite():
    weight = torch.randn(16, 4, generator=torch.manual_seed(0)) @ torch.randn(4, 24)
    weight[:, 3] = 0
    for matrix in (weight, torch.zeros(8, 8)):
        lower, diagonal, upper = ldu(matrix)
        assert ((lower * diagonal) @ upper - matrix).abs().max() < 1e-4
        assert upper.abs().max() <= 1 / FLOOR + 1


@pytest.mark.parametrize(("r", "alpha"), [(1, 1), (7, 1), (7, 50), (768, 768)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_begins_as_the_base_and_merges(kind, r, alpha):
    base = build(kind)
    before = output(base)
    how = method("loldu", r=r, alpha=alpha, task_type=None)
    model = how.prepare(base)
    assert torch.equal(output(model), before)
    for parameter in trainable(model).values():
        parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    moved = output(model)
    assert not torch.equal(moved, before)
    with model.disable_adapter():
        assert torch.equal(output(model), before)
    # Layer by layer: with whole diagonals moved, this T5 turns 1e-6 of a weight into 3e-4 of a logit.
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LolduLinear)}
    inputs = {n: torch.randn(16, m.shape[1]) for n, m in layers.items()}
    tuned = {n: m(inputs[n]) for n, m in layers.items()}
    merged = how.merge(model)
    for name, out in tuned.items():
        plain = merged.get_submodule(name.removeprefix("base_model.model."))
        assert (plain(inputs[name]) - out).abs().max() < 1e-5 * out.abs().max()


@pytest.mark.parametrize("init", ["uniform", "normal", "mean", "ones", "zeros"])
def test_other_starts_are_not_the_base(folder, init):
    model = method("loldu", r=8, alpha=8, init=init).prepare(load(folder))
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-3


def test_r_numbers_a_layer_are_trained_and_one_more_with_the_scale(folder):
    for r in (5, 100, 768):
        for scale in (False, True):
            model = method("loldu", r=r, train_scale=scale).prepare(load(folder))
            layers = [m for m in model.modules() if isinstance(m, LolduLinear)]
            expected = sum(min(r, *layer.shape) + scale for layer in layers)
            assert len(layers) == 14
            assert sum(p.numel() for p in trainable(model).values()) == expected


def test_the_gradient_is_the_diagonal_of_the_weights_between_the_factors(folder):
    name, r, alpha = "model.layers.1.mlp.down_proj", 24, 12
    base = load(folder)
    weight = base.get_submodule(name).weight.requires_grad_()
    loss_of(base.train()).backward()
    model = method("loldu", r=r, alpha=alpha).prepare(load(folder))
    loss_of(model.train()).backward()
    lower, _, upper = ldu(weight.detach())
    expected = alpha / r * (lower[:, :r].T @ weight.grad @ upper[:r].T).diagonal()
    gradient = model.get_submodule(f"base_model.model.{name}").loldu_z["default"].grad
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_is_kept_is_z_and_it_gives_the_same_function(folder, tmp_path):
    model = method("loldu", r=32, alpha=32).prepare(load(folder))
    first = loss_of(model).item()
    base = {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    train(model, steps=3)
    assert loss_of(model).item() < first
    assert all(torch.equal(model.get_parameter(n), p) for n, p in base.items())
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert len(kept) == 14 and all("loldu_z" in n and t.shape == (32,) for n, t in kept.items())
    assert torch.equal(logits(PeftModel.from_pretrained(load(folder), tmp_path)), logits(model))


def test_z_alone_lowers_the_loss_below_the_head_alone():
    """Frozen random features with a shifted task; equal steps of Adam, the head trained in both."""
    torch.manual_seed(0)
    x = torch.randn(512, 32)
    make = nn.Sequential(
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    labels = (x @ torch.randn(32, 4)).argmax(-1)
    state = {n: p.clone() for n, p in make.state_dict().items()}

    def trained(model) -> float:
        stepper = torch.optim.Adam(trainable(model).values(), lr=1e-2)
        for _ in range(100):
            stepper.zero_grad()
            loss = nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            stepper.step()
        return loss.item()

    make[:4].requires_grad_(False)
    head = trained(make)
    make.load_state_dict(state)
    config = LolduConfig(target_modules=["0", "2"], modules_to_save=["4"], r=32, alpha=32)
    assert trained(get_peft_model(make, config)) < 0.95 * head


def test_the_papers_counts():
    """18,432 in RoBERTa-base and ViT-base; LoRA of rank 8 on the same layers trains 16 times that."""
    with torch.device("meta"):
        roberta = RobertaForSequenceClassification(RobertaConfig())
        vit = ViTModel(ViTConfig())
    for base, targets in ((roberta, ["query", "value"]), (vit, ["q_proj", "v_proj"])):
        model = get_peft_model(base, LolduConfig(target_modules=targets, r=768))
        count = sum(p.numel() for p in trainable(model).values())
        assert count == 18_432 and 12 * 2 * 8 * (768 + 768) == 16 * count
