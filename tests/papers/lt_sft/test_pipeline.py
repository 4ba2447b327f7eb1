"""Two phases in one run: what is selected, what moves, what a stop leaves, and what is added at the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.deltas.operations import find_operations
from ftcli.jobs.train import resume, train_with_lock
from ftcli.papers.lt_sft import sparse_diff
from ftcli.papers.lt_sft.masking import DistanceFromStart, GradientMask
from ftcli.papers.lt_sft.pipeline import DIFF, MASKS
from ftcli.papers.lt_sft.selection import select_moved
from ftcli.run.build import create_run_in_new_dir

HEAD = "lm_head.weight"
ENTRIES = 4000
EVERY = 421888  # maskable entries of the model
SMALL = (
    "data.limit=64", "eval=none", "trainer.batch_size=8", "trainer.max_steps=4",
    "trainer.log_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The recipe's architecture with random weights."""
    from ftcli.papers.lt_sft.model import UntiedCausalLM

    folder = tmp_path_factory.mktemp("base")
    source = UntiedCausalLM("asset:llama_nano", tokenizer="asset:llama_mini", weights="random")
    torch.manual_seed(0)
    source.load().save_pretrained(folder)
    source.load_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepare(base, tmp_path_factory):
    """Builds a run of the recipe on random weights."""
    places = (f"run.dir={tmp_path_factory.mktemp('runs')}", f"data.cache_dir={base}/tokens")
    model = ("~model.from_recipe", f"+model.path={base}")

    def build(*overrides):
        phases = (f"pipeline.entries={ENTRIES}", "pipeline.full_steps=3")
        pipeline = () if "~pipeline" in overrides else phases
        job = [*SMALL, *pipeline, *places, *model, *overrides]
        composed = compose("lt_sft", job)
        validate_and_convert(composed)
        return create_run_in_new_dir(composed)

    return build


@pytest.fixture(scope="module")
def finished(prepare):
    """The folder of a finished run."""
    return finish(prepare())


def finish(run):
    return Path(train_with_lock(run, None)["run"])


def read(folder):
    return load_file(folder / "model" / "model.safetensors")


def changed(folder, base):
    """Name -> which entries differ from the base in any bit."""
    start = load_file(base / "model.safetensors")
    return {name: tensor != start[name] for name, tensor in read(folder).items()}


def masks_of(folder, base):
    start = load_file(base / "model.safetensors")
    names = list(sparse_diff.load_diff(folder / DIFF).shapes)
    return sparse_diff.load_masks(folder / MASKS, {name: start[name] for name in names})


def test_exactly_k_are_selected_and_nothing_else_changes(finished, base):
    masks, moved = masks_of(finished, base), changed(finished, base)
    assert sum(int(mask.sum()) for mask in masks.values()) == ENTRIES
    assert 0 < sum(int(moved[name].sum()) for name in masks) <= ENTRIES
    assert not any((moved[name] & ~mask).any() for name, mask in masks.items())
    assert {name for name in moved if moved[name].any()} <= {*masks, HEAD}


def test_the_head_is_trained_besides_k_and_kept_whole(finished, base):
    """Of the output layer only the rows of the four label words have gradients."""
    head, start = read(finished)[HEAD], load_file(base / "model.safetensors")[HEAD]
    assert (head != start).any(1).sum() == 4
    assert torch.equal(sparse_diff.load_diff(finished / DIFF).dense[HEAD], head)


def test_a_head_that_is_not_trained_is_refused(prepare):
    run = prepare("pipeline.head=[model.norm.weight]")
    with pytest.raises(UserError, match="no parameter that the method trains"):
        train_with_lock(run, None)


def test_norms_and_head_are_not_candidates(finished, base):
    names = set(masks_of(finished, base))
    assert HEAD not in names
    assert not any("norm" in name for name in names)
    assert len(names) == 1 + 3 * 7  # embeddings, and the matrices of three blocks


def test_what_full_finetuning_moves_most_is_selected(finished, base, prepare):
    """The first phase is the full finetuning of a run of its own, to the bit."""
    full = finish(prepare("~pipeline", "trainer.max_steps=3"))
    start, trained = load_file(base / "model.safetensors"), read(full)
    masks = masks_of(finished, base)
    expected, _ = select_moved({n: start[n] for n in masks}, trained, ENTRIES)
    assert all(torch.equal(expected[name], mask) for name, mask in masks.items())


def test_all_entries_are_full_finetuning_of_the_second_length(prepare):
    full = read(finish(prepare("~pipeline", "trainer.max_steps=4")))
    every = read(finish(prepare(f"pipeline.entries={EVERY}")))
    assert all(torch.equal(tensor, every[name]) for name, tensor in full.items())


def test_random_entries_take_no_first_phase(prepare, base):
    folder = finish(prepare("pipeline.choice=random", "pipeline.full_steps=100000"))
    masks, moved = masks_of(folder, base), changed(folder, base)
    assert sum(int(mask.sum()) for mask in masks.values()) == ENTRIES
    assert not any((moved[name] & ~mask).any() for name, mask in masks.items())


def test_only_the_second_phase_is_recorded(finished):
    from ftcli.core.run_dir import RunDir

    record = RunDir.open(finished)
    assert [line["step"] for line in record.metrics()] == [1, 2, 3, 4]
    assert record.result()["trainable_parameters"] == ENTRIES + 4096 * 64  # and the head
    assert record.result()["step"] == 4


def test_the_file_holds_the_change_of_the_model(finished, base):
    diff, start = sparse_diff.load_diff(finished / DIFF), load_file(base / "model.safetensors")
    for name, tensor in read(finished).items():
        if name == HEAD:
            continue
        change = diff.expand(name) if name in diff.shapes else torch.zeros(())
        assert (tensor.double() - start[name].double() - change).abs().max() < 1.1e-7
    assert 0 < diff.entries <= ENTRIES


def test_stopped_in_the_second_phase_it_goes_on_to_the_same_weights(prepare, finished):
    run = prepare()
    (run.dir.path / "STOP").touch()
    assert train_with_lock(run, None)["status"] == "stopped by STOP"
    assert run.dir.result()["step"] == 1
    assert resume(run.dir.path)["status"] == "finished"
    expected = read(finished)
    assert all(torch.equal(t, expected[n]) for n, t in read(run.dir.path).items())


class StopAt(Callback):
    """Ends the process's run by a signal after a step, once."""

    def __init__(self):
        self.sent = False

    def after_step(self, state):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_in_the_first_phase_it_begins_anew(prepare, finished):
    run = prepare()
    run.configured_callbacks["stop"] = StopAt()
    assert train_with_lock(run, None)["status"] == "stopped by SIGTERM"
    assert not (run.dir.path / MASKS).exists()
    assert not (run.dir.path / "model").exists()
    assert resume(run.dir.path)["status"] == "finished"
    expected = read(finished)
    assert all(torch.equal(t, expected[n]) for n, t in read(run.dir.path).items())


@pytest.mark.parametrize(
    "overrides, words",
    [
        (("optimizer.weight_decay=0.1",), "weight decay"),
        (("optimizer=muon", "optimizer.lr=1e-3"), "no gradient"),
        ((f"pipeline.entries={EVERY + 1}",), "cannot be selected"),
    ],
)
def test_what_would_move_other_entries_is_refused(prepare, overrides, words):
    run = prepare(*overrides)
    with pytest.raises(UserError, match=words):
        train_with_lock(run, None)


def test_the_penalty_has_the_sign_of_the_change_as_its_gradient(prepare):
    """d/dtheta of lambda / N * sum |theta - theta_0|, N = all parameters of the model."""
    run = prepare()
    model = run.load_model()
    penalty = DistanceFromStart(weight=0.1)
    penalty.setup(run)
    name, matrix = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
    with torch.no_grad():
        matrix[0] += 0.5
        matrix[1] -= 0.25
    value = penalty(model, {}, None)
    total = sum(p.numel() for p in model.parameters())
    assert value.item() == pytest.approx(0.75 * matrix.shape[1] / total, rel=1e-4)
    value.backward()
    assert torch.allclose(matrix.grad[0] * total, torch.ones_like(matrix[0]))
    assert torch.allclose(matrix.grad[1] * total, -torch.ones_like(matrix[1]))
    assert not matrix.grad[2:].any()


def test_the_penalty_shortens_the_vector(prepare, finished):
    folder = finish(
        prepare("+penalty=distance_from_start", "penalty.distance_from_start.weight=1e4")
    )

    def length(run):
        diff = sparse_diff.load_diff(run / DIFF)
        return sum(values.abs().sum().item() for values in diff.values.values())

    assert length(folder) < 0.9 * length(finished)


def test_gradients_outside_the_mask_are_zero_before_they_are_clipped(prepare):
    run = prepare()
    model = run.load_model()
    names = [n for n, p in model.named_parameters() if p.requires_grad][:2]
    masks = {names[0]: torch.zeros(model.get_parameter(names[0]).shape, dtype=torch.bool)}
    masks[names[0]][0, :3] = True
    for name in names:
        model.get_parameter(name).grad = torch.ones_like(model.get_parameter(name))
    state = type("State", (), {"model": model})()
    GradientMask(masks).after_backward(state)
    assert model.get_parameter(names[0]).grad.sum() == 3
    assert model.get_parameter(names[1]).grad.all()


def test_compose_adds_runs_and_sparse_files(finished, prepare, base, tmp_path):
    other = finish(prepare("seed=1"))
    compose_vectors = find_operations()["compose"]
    for number, path in enumerate((other, other / DIFF)):
        target = tmp_path / str(number)
        report = compose_vectors(str(finished), [str(path)], str(target))
        own, added = report.figures.values()
        assert 0 < added <= ENTRIES < own <= ENTRIES + 4 * 64
        start, both = load_file(base / "model.safetensors"), read(target)
        assert torch.equal(both.pop(HEAD), read(finished)[HEAD])
        for name, tensor in both.items():
            total = read(finished)[name].double() + read(other)[name] - start[name]
            assert (tensor - total).abs().max() < 1e-6


def test_compose_refuses_a_file_of_another_model(finished, tmp_path):
    diff = sparse_diff.take_diff({"a": torch.zeros(3)}, {"a": torch.ones(3)})
    sparse_diff.save_diff(diff, tmp_path / "other.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for name, words in (("other", "no tensor of the other"), ("plain", "no sparse differences")):
        with pytest.raises(UserError, match=words):
            path = str(tmp_path / f"{name}.safetensors")
            find_operations()["compose"](str(finished), [path], str(tmp_path / name))
