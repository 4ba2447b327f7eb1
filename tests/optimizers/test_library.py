"""Every configuration in configs/optimizer: exact resume, groups, learning rate, fallback."""

import io
import warnings
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ftcli.config import build, paths
from ftcli.core.errors import UserError
from ftcli.optimizers.library import LibraryOptimizer

FILES = paths.list_options("optimizer", paths.list_packaged_folders())
NAMES = sorted(FILES)


def node(name: str, **options):
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(FILES[name]), options))


def parameters() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    shapes = {"big.weight": (256, 64), "small.weight": (8, 16), "bias": (64,)}
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]


def start(name: str, **options):
    wrapper, named = build(node(name, weight_decay=0.1, **options)), parameters()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = wrapper.build(named, "cpu")
    return SimpleNamespace(wrapper=wrapper, named=named, optimizer=optimizer)


def advance(run, first: int, last: int) -> None:
    for i in range(first, last):
        torch.manual_seed(100 + i)
        for _, parameter in run.named:
            parameter.grad = torch.randn_like(parameter)
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - i / 10)
        take_step(run)
        run.optimizer.zero_grad()


def take_step(run) -> None:
    """By gradients, or by a loss with the same gradient where the optimizer asks for losses."""
    if getattr(run.optimizer, "uses_backward", True):
        run.optimizer.step()
    else:
        run.optimizer.step(lambda: sum((p * p.grad).sum() for _, p in run.named))


def through_disk(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def values(run) -> list[torch.Tensor]:
    return [p.detach().clone() for _, p in run.named]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_steps_after_a_save_and_load_are_bit_identical(name):
    whole = start(name)
    advance(whole, 0, 3)
    whole.wrapper.swap_in_eval_weights()  # what the loop does around saving weights
    weights = values(whole)
    whole.wrapper.restore_training_weights()
    saved = through_disk((whole.optimizer.state_dict(), whole.wrapper.state_dict()))
    advance(whole, 3, 6)
    resumed = start(name)
    for (_, parameter), value in zip(resumed.named, weights, strict=True):
        parameter.data.copy_(value)
    resumed.optimizer.load_state_dict(saved[0])
    if saved[1]:
        resumed.wrapper.load_state_dict(saved[1])
    advance(resumed, 3, 6)
    assert same(values(whole), values(resumed))
    assert not same(values(whole), weights)


@pytest.mark.parametrize("name", NAMES)
def test_looking_at_the_weights_changes_nothing(name):
    looked, quiet = start(name), start(name)
    for run, times in ((looked, 2), (quiet, 0)):
        advance(run, 0, 3)
        for _ in range(times):
            run.wrapper.swap_in_eval_weights()
            run.wrapper.swap_in_eval_weights()
            run.wrapper.restore_training_weights()
        advance(run, 3, 5)
    assert same(values(looked), values(quiet))


def test_schedule_free_judges_other_weights_than_it_trains():
    run = start("schedulefree")
    advance(run, 0, 3)
    training = values(run)
    run.wrapper.swap_in_eval_weights()
    assert not same(values(run), training)
    assert same(run.wrapper.state_dict()["training"], training)
    run.wrapper.restore_training_weights()
    assert same(values(run), training)


@pytest.mark.parametrize("name", NAMES)
def test_matrices_decay_and_vectors_do_not(name):
    run = start(name, lr=0.01)
    before = values(run)
    for _, parameter in run.named:
        parameter.grad = torch.zeros_like(parameter)
    take_step(run)
    matrix, _, vector = (p.detach() for _, p in run.named)
    assert torch.allclose(matrix, before[0] * (1 - 0.01 * 0.1), rtol=1e-5)
    assert torch.equal(vector, before[2])


@pytest.mark.parametrize("name", NAMES)
def test_each_group_keeps_its_base_rate(name):
    run = start(name)
    assert {g["initial_lr"] for g in run.optimizer.param_groups} == {run.wrapper.lr}
    before = values(run)
    for group in run.optimizer.param_groups:
        group["lr"] = 0.0
    for _, parameter in run.named:
        parameter.grad = torch.ones_like(parameter)
    take_step(run)
    assert same(values(run), before)  # the rate the loop sets is the rate that is used


def test_adamw_is_fused_on_cpu_and_equals_the_plain_one():
    fused, plain = start("adamw"), start("adamw", fused=False)
    assert fused.optimizer.param_groups[0]["fused"] is True
    for run in (fused, plain):
        advance(run, 0, 3)
    pairs = zip(values(fused), values(plain), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "kind"), [("paged_adamw", "AdamW"), ("paged_adamw8bit", "AdamW8bit")]
)
def test_the_fallback_off_cuda_is_said_and_recorded(name, kind):
    wrapper = build(node(name))
    with pytest.warns(UserWarning, match=r"is for CUDA; on cpu .* takes its place"):
        optimizer = wrapper.build(parameters(), "cpu")
    assert type(optimizer).__name__ == kind
    events = []
    run = SimpleNamespace(
        dir=SimpleNamespace(append_event=lambda kind, **f: events.append((kind, f)))
    )
    wrapper.setup(run)
    assert events == [("warning", {"text": wrapper.fallback_warning})]


def test_without_a_fallback_nothing_is_said():
    wrapper = build(node("adamw8bit"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer = wrapper.build(parameters(), "cpu")
    wrapper.setup(SimpleNamespace(dir=None))
    state = optimizer.state
    advance(SimpleNamespace(named=parameters(), optimizer=optimizer), 0, 0)
    assert wrapper.fallback_warning is None and not state


def test_eight_bit_states_take_two_bytes_a_value():
    run = start("adamw8bit")
    advance(run, 0, 1)
    big = run.optimizer.state[run.named[0][1]]
    assert big["state1"].dtype == big["state2"].dtype == torch.uint8
    assert run.optimizer.state[run.named[1][1]]["state1"].dtype == torch.float32  # under 4096


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer_class": "torch.optim.AdamX"}, "there is no torch.optim.AdamX"),
        ({"optimizer_class": "nowhere.AdamX"}, "nowhere.AdamX is outside"),
        ({"momentun": 0.9}, "unexpected keyword argument 'momentun'"),
        ({"lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_mistakes_become_one_message(options, words):
    with pytest.raises(UserError, match=words):
        LibraryOptimizer(**options).build(parameters(), "cpu")


def test_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="nothing is trainable"):
        LibraryOptimizer().build([], "cpu")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "schedulefree", None)
    with pytest.raises(UserError, match=r"schedulefree") as caught:
        LibraryOptimizer("schedulefree.AdamWScheduleFree").build(parameters(), "cpu")
    assert caught.value.fix == "pip install 'ftcli[schedulefree]'"
