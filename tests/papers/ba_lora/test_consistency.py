"""KL to the pretrained model: closed forms, the teacher, and training on noisy labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.consistency import Consistency, kl_divergence, logit_distance
from tests.penalties.runs import SGD, build, fitted, furthest, start, step_loss, wake


def measure_penalty(run, batches) -> float:
    loss = step_loss(run, batches)
    with torch.no_grad():
        for batch in batches:
            loss(batch)
    return loss.metrics["penalty.consistency"].item()


def test_kl_has_its_closed_form_and_the_teacher_comes_first():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(expected, abs=1e-6)
    p = torch.tensor([[0.7, 0.2, 0.1]])
    forward = (p * (p / q).log()).sum().item()
    backward = (q * (q / p).log()).sum().item()
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(forward, abs=1e-6)
    assert abs(forward - backward) > 1e-2
    assert kl_divergence(p.log() + 3, p.log()).item() == pytest.approx(0, abs=1e-6)


def test_class_form_compares_directions():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert logit_distance(3 * z, z).item() == pytest.approx(0, abs=1e-12)
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert logit_distance(first, second).item() == pytest.approx(1.0)  # (1 + 1) / 2


@pytest.mark.parametrize("packing", ["flat", "none"])
@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_zero_before_training_and_the_mean_over_labelled_tokens_after(method, packing):
    run, batches = start(
        f"method={method}", "method.r=4", f"data.packing={packing}", "penalty=consistency"
    )
    assert abs(measure_penalty(run, batches)) < 1e-6
    wake(run.model)
    run.model.eval()
    base = run.model_source.load()
    with torch.no_grad():
        student = run.objective(run.model, batches[0])
        teacher = run.objective(base, batches[0])
        log_p = teacher.head(teacher.hidden).log_softmax(-1)
        log_q = student.head(student.hidden).log_softmax(-1)
        expected = (
            kl_div(log_q, log_p, log_target=True, reduction="sum") / batches[0]["num_supervised"]
        )
    assert measure_penalty(run, batches) == pytest.approx(expected.item(), rel=1e-5)
    assert expected > 1e-3


def test_pissas_own_residual_would_be_a_wrong_teacher():
    run, batches = start("method=pissa", "method.r=4", "penalty=consistency")
    with torch.no_grad(), run.model.disable_adapter():
        residual = run.objective(run.model, batches[0]).values
    teacher = run.penalties["consistency"]._teacher(batches[0]).values
    assert (residual - teacher).abs().max() > 0.1


def test_chunks_give_the_gradients_of_the_whole():
    def gradients(size):
        run, batches = start("method=lora", "method.r=4", "penalty=consistency",
                             f"penalty.consistency.chunk_size={size}", "penalty.consistency.weight=1")  # fmt: skip
        wake(run.model)
        run.model.eval()
        step_loss(run, batches)(batches[0]).backward()
        return [p.grad for p in run.model.parameters() if p.requires_grad]

    pairs = zip(gradients(1024), gradients(16), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-6


def test_weight_zero_is_plain_training_bit_for_bit():
    shared = ["method=lora", "method.r=4", "+method.lora_dropout=0.1"]
    off = fitted(
        *shared,
        "penalty=ba_lora",
        *(f"penalty.{n}.weight=0" for n in ("consistency", "diversity", "spectrum")),
    )
    assert furthest(off, fitted(*shared)) == 0
    assert (
        furthest(off, fitted(*shared, "penalty=consistency", "penalty.consistency.weight=10")) > 0
    )


def test_accumulation_equals_the_large_batch():
    shared = ["method=pissa", "method.r=4", *SGD, "penalty=[consistency,diversity]",
              "penalty.consistency.weight=1", "penalty.diversity.weight=1"]  # fmt: skip
    large = fitted(*shared, "trainer.batch_size=8")
    small = fitted(*shared, "trainer.batch_size=2", "trainer.gradient_accumulation_steps=4")
    assert furthest(large, small) < 2e-6
    assert furthest(large, build(*shared)) > 1e-4


class Classifier(nn.Module):
    """A pretrained linear map and a low-rank change of it."""

    def __init__(self, base: nn.Module, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(base.in_features, rank) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(rank, base.out_features))

    def forward(self, x):
        return self.base(x) + x @ self.down @ self.up


def noisy_run(seed: int, weight: float) -> tuple[float, float]:
    """Finetune on 30 % flipped labels; (KL to the base on clean rows, accuracy there)."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(16, 3, generator=generator)
    x, clean = torch.randn(96, 16, generator=generator), torch.randn(512, 16, generator=generator)
    labels = (x @ truth).argmax(1)
    flip = torch.rand(96, generator=generator) < 0.3
    labels = torch.where(flip, (labels + 1) % 3, labels)
    base = nn.Linear(16, 3, bias=False)
    base.weight.data = (truth + 0.8 * torch.randn(16, 3, generator=generator)).T
    torch.manual_seed(seed)
    model = Classifier(base)
    penalty = Consistency(weight=weight)
    penalty._teacher = lambda rows: Losses(rows, rows, hidden=rows, head=base)
    optimizer = torch.optim.Adam([model.down, model.up], lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        losses = Losses(x, labels, hidden=x, head=model)
        loss = cross_entropy(model(x), labels) + weight * penalty(model, x, losses)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        kl = kl_divergence(base(clean), model(clean)).mean().item()
        right = (model(clean).argmax(1) == (clean @ truth).argmax(1)).float().mean().item()
    return kl, right


def test_with_flipped_labels_it_stays_near_the_base_and_is_no_worse_on_clean_rows():
    seeds = range(5)
    free = [noisy_run(seed, 0.0) for seed in seeds]
    held = [noisy_run(seed, 1.0) for seed in seeds]
    assert all(b[0] < 0.7 * a[0] for a, b in zip(free, held, strict=True))
    assert sum(b[1] - a[1] for a, b in zip(free, held, strict=True)) / len(seeds) > -0.01
