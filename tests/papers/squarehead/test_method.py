"""Pruning of a whole model, and zeros that stay zeros through steps, checkpoints and resumes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.squarehead.method import find_masks, list_layers, zero_share
from tests.methods.small_run import rows, small_run
from tests.methods.tiny import load, logits, loss_of, method, trainable, write_gpt2, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def set_up(folder, model=None, **options):
    """A method and its model after `setup` on a few rows."""
    how = method("masked", **{"sparsity": 0.75, "samples": 16, "batch_size": 8} | options)
    model = how.prepare(model or load(folder))
    how.setup(small_run(model, CausalLMSource(str(folder)), rows(16)))
    return how, model


def layers_of(model):
    return {name: layer for block in list_layers(model) for name, layer in block.items()}


def take_steps(how, model, optimizer, count=4):
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        how.after_backward(SimpleNamespace())
        optimizer.step()
        how.after_step(SimpleNamespace())


@pytest.mark.parametrize("algorithm", ["magnitude", "wanda", "sparsegpt"])
def test_only_linear_layers_of_blocks_lose_weights(folder, algorithm):
    how, model = set_up(folder, algorithm=algorithm)
    assert len(how.masks) == 14
    for mask in how.masks.values():
        assert zero_share({"": mask}) == pytest.approx(0.75, abs=1e-9)
    dense = dict(load(folder).named_parameters())
    others = {n for n in dense if n.removesuffix(".weight") not in how.masks}
    assert "model.embed_tokens.weight" in others and "lm_head.weight" in others
    assert all(torch.equal(dict(model.named_parameters())[n], dense[n]) for n in others)


def test_sparsegpt_leaves_outputs_nearer_than_magnitude(folder):
    dense = logits(load(folder))
    far = {
        algorithm: (logits(set_up(folder, algorithm=algorithm)[1]) - dense).norm()
        for algorithm in ("sparsegpt", "magnitude")
    }
    assert far["sparsegpt"] < far["magnitude"]


def test_later_blocks_are_measured_with_the_pruned_ones_before_them(folder, monkeypatch):
    from ftcli.papers.squarehead import method as module

    seen = []
    measure = module.input_covariance

    def record(model, *rest):
        seen.append(sum(zero_share({"": li.weight != 0}) > 0.5 for li in layers_of(model).values()))
        return measure(model, *rest)

    monkeypatch.setattr(module, "input_covariance", record)
    set_up(folder, algorithm="sparsegpt")
    assert seen == [0, 7]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_stay_with_momentum_and_weight_decay(folder, pattern):
    how, model = set_up(folder, pattern=pattern)
    before = {n: li.weight.clone() for n, li in layers_of(model).items()}
    take_steps(how, model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1))
    for name, layer in layers_of(model).items():
        assert torch.equal(layer.weight != 0, how.masks[name])
        assert not torch.equal(layer.weight, before[name])
        if pattern == "2:4":
            assert ((layer.weight.view(-1, 4) != 0).sum(1) == 2).all()


def test_momentum_from_before_the_mask_moves_no_zero(folder):
    model = load(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss_of(model).backward()
    optimizer.step()
    how, model = set_up(folder, model)
    take_steps(how, model, optimizer, 1)
    moved = next(iter(layers_of(model).values())).weight
    assert torch.equal(moved != 0, next(iter(how.masks.values())))
    optimizer.zero_grad()
    for name, mask in how.masks.items():
        layers_of(model)[name].weight.grad = torch.zeros_like(mask, dtype=torch.float32)
    optimizer.step()  # momentum alone moves them, were they not masked after the step
    assert any((layers_of(model)[n].weight[~mask] != 0).any() for n, mask in how.masks.items())
    how.after_step(SimpleNamespace())
    assert all((layers_of(model)[n].weight[~mask] == 0).all() for n, mask in how.masks.items())


def test_a_model_that_comes_pruned_is_masked_where_a_tenth_is_zero(folder):
    model = load(folder)
    layers = layers_of(model)
    names = list(layers)
    with torch.no_grad():
        layers[names[0]].weight[:64] = 0  # half
        layers[names[1]].weight[:6] = 0  # 4.7 %
    assert list(find_masks(layers, 0.1)) == names[:1]
    how, _ = set_up(folder, model, algorithm="none")
    assert list(how.masks) == names[:1] and len(trainable(model)) == len(list(model.parameters()))


def test_masks_are_those_of_the_checkpoint(folder):
    how, _ = set_up(folder, algorithm="sparsegpt")
    other, model = set_up(folder, algorithm="magnitude")
    saved = how.state_dict()
    other.load_state_dict(saved)
    assert all(torch.equal(other.masks[n], mask) for n, mask in how.masks.items())
    other.after_step(SimpleNamespace())
    assert all((layers_of(model)[n].weight[~mask] == 0).all() for n, mask in how.masks.items())


def test_what_cannot_be_pruned_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="nothing is masked"):
        set_up(folder, algorithm="none")
    with pytest.raises(UserError, match="sparsity=1.5"):
        method("masked", sparsity=1.5)
    with pytest.raises(UserError, match="groups of 7 do not divide"):
        set_up(folder, pattern="3:7")
    with pytest.raises(UserError, match="finds no linear layer"):
        set_up(tmp_path, load(write_gpt2(tmp_path)))  # its layers are Conv1D


class Stop(Callback):
    """Asks a run to stop after a step."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def after_step(self, state) -> None:
        if state.step == self.at:
            (state.run.dir.path / "STOP").touch()


def test_a_resumed_run_ends_at_the_same_bits_with_the_same_zeros(tmp_path):
    from ftcli.config import compose, validate_and_convert
    from ftcli.jobs.train import resume, train_with_lock
    from ftcli.run.build import create_run_in_new_dir, open_run

    def start(name, at):
        composed = compose("squarehead", [
            "~model.from_recipe", "method.samples=8", "data.limit=64", "eval=none",
            "trainer.max_steps=4", "trainer.batch_size=2", f"run.dir={tmp_path}/runs", f"run.name={name}",
            f"data.cache_dir={tmp_path}/tokens", "objective.kl=1", "trainer.gradient_accumulation_steps=2",
        ])  # fmt: skip
        validate_and_convert(composed)
        run = create_run_in_new_dir(composed)
        run.loggers["stop"] = Stop(at)
        train_with_lock(run, None)
        return run.dir.path

    whole, parts = start("whole", None), start("parts", 2)
    resume(parts)
    one, two = open_run(whole), open_run(parts)
    ends = one.get_trained_tensors()
    assert all(torch.equal(ends[n], t) for n, t in two.get_trained_tensors().items())
    masks = find_masks(layers_of(two.model), 0.1)
    assert len(masks) == 56 and all(
        zero_share({"": mask}) == pytest.approx(0.8, abs=1e-4) for mask in masks.values()
    )
