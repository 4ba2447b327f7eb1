"""The terms of distillation by hand: normalisation, padding, positions, and their place in a step."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.squarehead.objective import (
    Distillation,
    hidden_states,
    kl_divergence,
    squarehead_loss,
)
from tests.methods.small_run import small_run
from tests.methods.tiny import load, method, write_llama

EPS = 2.0**-7


class Run:
    """What a run has for an objective; a namespace is no key of the teachers that are kept."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def batch():
    """Two rows, of 9 and 6 tokens; prompts of 4 and 3 have no label."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(3))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[1, 6:], labels[1, 6:] = 0, -100
    labels[0, :4] = labels[1, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pruned(folder, **weights):
    """An objective with its teacher, and a student that lost half of its weights."""
    source = CausalLMSource(str(folder), dtype="float32")
    how = method("masked", sparsity=0.5)
    student = how.prepare(load(folder))
    run = Run(method=how, **vars(small_run(student, source)))
    how.setup(run)
    objective = Distillation(**weights)
    objective.setup(run)
    return objective, student.eval()


def states(seed, layers=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 8, generator=generator) * 10.0**i for i in range(layers)]


def test_squarehead_by_hand():
    student, teacher = states(0), states(1)
    terms = [
        ((s - t) ** 2).sum() / 40 / ((t**2).sum() / 40 + EPS)
        for s, t in zip(student, teacher, strict=True)
    ]
    assert torch.allclose(squarehead_loss(student, teacher, EPS), sum(terms), rtol=1e-6)


def test_equal_states_give_0_zero_states_the_number_of_layers_and_no_scale_matters():
    student, teacher = states(0), states(1)
    assert squarehead_loss(teacher, teacher, EPS) == 0
    nothing = [torch.zeros_like(t) for t in teacher]
    assert squarehead_loss(nothing, teacher, 0.0) == pytest.approx(3, rel=1e-6)
    scaled = [[64.0 * x for x in side] for side in (student, teacher)]
    assert torch.equal(squarehead_loss(*scaled, 0.0), squarehead_loss(student, teacher, 0.0))


def test_no_gradient_reaches_the_energy():
    student, teacher = states(0, 1), states(1, 1)
    student[0].requires_grad_()
    squarehead_loss(student, teacher, EPS).backward()
    expected = 2 * (student[0] - teacher[0]) / 40 / (teacher[0].square().mean() + EPS)
    assert torch.allclose(student[0].grad, expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_is_torchs(temperature):
    teacher, student = torch.randn(4, 11), torch.randn(4, 11)
    expected = temperature**2 * kl_div(
        log_softmax(student / temperature, -1), softmax(teacher / temperature, -1), reduction="none"
    ).sum(-1)
    assert torch.allclose(kl_divergence(teacher, student, temperature), expected, atol=1e-6)


def test_states_are_those_of_transformers_without_embeddings_and_padding(folder, batch):
    model = load(folder)
    ours, _ = hidden_states(model, batch)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    theirs = model(**inputs, output_hidden_states=True).hidden_states[1:]
    real = batch["attention_mask"].bool()
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == (15, 128) and torch.allclose(mine, other[real], atol=1e-6)


def test_the_loss_of_a_step_is_the_weighted_sum_of_its_terms(folder, batch):
    objective, student = pruned(folder, ce=0.5, kl=2.0, squarehead=3.0, temperature=2.0)
    teacher = load(folder)
    losses = objective(student, batch)
    total = objective.numerator(losses) / objective.denominator([batch])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    predicted, taught = (model(**inputs).logits[:, :-1] for model in (student, teacher))
    labels = batch["labels"][:, 1:]
    here = labels != -100
    ce = cross_entropy(predicted[here], labels[here])
    kl = kl_divergence(taught[here], predicted[here], 2.0).mean()
    sq = squarehead_loss(hidden_states(student, batch)[0], hidden_states(teacher, batch)[0], EPS)
    assert torch.allclose(total, 0.5 * ce + 2 * kl + 3 * sq, rtol=1e-5)
    assert torch.allclose(losses.metrics["squarehead"], sq, rtol=1e-5) and sq > 0.1
    held = objective.held_out_losses(student, batch).values
    assert torch.allclose(held.mean(), ce, rtol=1e-5)


def test_more_padding_changes_nothing(folder, batch):
    objective, student = pruned(folder, kl=1.0)
    wider = {k: torch.nn.functional.pad(v, (0, 5), value=-100 if k == "labels" else 0) for k, v in batch.items()}  # fmt: skip
    assert torch.allclose(objective(student, wider).values, objective(student, batch).values, atol=1e-5)  # fmt: skip


def test_packed_rows_give_the_loss_of_padded_ones(folder, batch):
    objective, student = pruned(folder, kl=1.0)
    real = batch["attention_mask"].bool()
    packed = {
        "input_ids": batch["input_ids"][real][None],
        "labels": batch["labels"][real][None],
        "position_ids": torch.cat([torch.arange(9), torch.arange(6)])[None],
        "lengths": torch.tensor([9, 6]),
    }
    assert torch.allclose(objective(student, packed).values, objective(student, batch).values, atol=1e-4)  # fmt: skip


def test_against_itself_kl_and_squarehead_are_0_and_the_teacher_is_dense_and_frozen(folder, batch):
    objective, student = pruned(folder, kl=1.0)
    with objective._reference.model() as teacher:
        dense = load(folder)
        assert all(torch.equal(p, q) for p, q in zip(teacher.parameters(), dense.parameters(), strict=True))  # fmt: skip
        assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training
    losses = objective(dense, batch)
    assert losses.metrics["squarehead"] < 1e-10 and losses.metrics["kl"].abs() < 1e-6
    objective(student, batch).values.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
