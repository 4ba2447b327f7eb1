"""AdaLoRA's schedule is fed by the loop, prunes to its target, and survives a resume."""

import copy
from types import SimpleNamespace

import peft
import pytest
import torch

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.methods.adalora import AdaLora, orthogonality

from .tiny import load, logits, loss_of, trainable, write_llama

STEPS = 12
OPTIONS = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 1, "lora_alpha": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def start(folder, **options):
    torch.manual_seed(1)
    method = AdaLora(**OPTIONS, **options)
    model = method.prepare(load(folder)).train()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2, weight_decay=0.0)
    state = State(SimpleNamespace(), model, STEPS)
    return SimpleNamespace(method=method, model=model, optimizer=optimizer, state=state)


def advance(run, steps):
    """The loop's order of moments: gradients are gone when after_step is called."""
    run.model.train()
    for _ in range(steps):
        run.method.before_step(run.state)
        loss_of(run.model).backward()
        run.method.after_backward(run.state)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.state.step += 1
        run.method.after_step(run.state)


def ranks(model):
    return sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)


def test_ranks_fall_to_the_target_and_stay_there(folder):
    run = start(folder)
    layers = 14
    seen = []
    for _ in range(STEPS):
        advance(run, 1)
        seen.append(ranks(run.model))
    assert seen[:2] == [layers * 4] * 2
    assert seen[STEPS - OPTIONS["tfinal"] - 1 :] == [layers * 2] * 5
    assert all(a >= b for a, b in zip(seen[1:], seen[2:], strict=False))
    assert run.model.peft_config["default"].total_step == STEPS


def test_a_resumed_run_ends_bit_equal(folder):
    whole = start(folder)
    advance(whole, 7)
    saved = copy.deepcopy(
        (
            whole.method.get_trained_tensors(whole.model),
            whole.method.state_dict(),
            whole.optimizer.state_dict(),
        )
    )
    advance(whole, STEPS - 7)
    again = start(folder)
    again.method.load_trained_tensors(again.model, saved[0])
    again.method.load_state_dict(saved[1])
    again.optimizer.load_state_dict(saved[2])
    again.state.step = 7
    advance(again, STEPS - 7)
    assert torch.equal(logits(whole.model), logits(again.model))
    a, b = (run.method.get_trained_tensors(run.model) for run in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_the_pruned_adapter_loads_in_peft_and_merges(folder, tmp_path):
    run = start(folder)
    advance(run, STEPS)
    after = logits(run.model)
    run.method.save(run.model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert (logits(loaded) - after).abs().max() < 2e-6
    assert (logits(run.method.merge(run.model)) - after).abs().max() < 1e-5


def test_the_orthogonality_term_is_the_papers(folder):
    run = start(folder)
    factors = [p for n, p in run.model.named_parameters() if "lora_A" in n or "lora_B" in n]
    expected = [
        torch.sqrt(((p @ p.T if p.shape[0] == 4 else p.T @ p) - torch.eye(4)).square().sum())
        for p in factors
    ]
    value = orthogonality(run.model)
    assert torch.allclose(value, sum(expected) / len(factors)) and value > 0
    run.method.before_step(run.state)
    (0.5 * value).backward()
    gradients = [p.grad.clone() for p in factors]
    for parameter in factors:
        parameter.grad = None
    for name, parameter in trainable(run.model).items():
        parameter.grad = torch.zeros_like(parameter) if "lora_E" in name else None
    run.method.after_backward(run.state)
    assert all(torch.equal(p.grad, g) for p, g in zip(factors, gradients, strict=True))


def test_a_schedule_longer_than_the_run_is_refused(folder):
    run = start(folder)
    run.state.max_steps = 6
    with pytest.raises(UserError, match="leaves no step for pruning in a run of 6 steps"):
        run.method.before_step(run.state)


def test_a_total_step_that_is_given_wins(folder):
    run = start(folder, total_step=50)
    run.method.before_step(run.state)
    assert run.model.peft_config["default"].total_step == 50
