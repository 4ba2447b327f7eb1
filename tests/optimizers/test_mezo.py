"""MeZO: its estimate, what it leaves unchanged, and replay of the step log."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.jobs.train import train
from ftcli.optimizers import mezo as module
from ftcli.optimizers import state as optimizer_state
from ftcli.optimizers.mezo import Direction, MeZO
from ftcli.optimizers.replay import FILE, RECORD, Replayable
from ftcli.papers.mezo.measures import gradients_taken, replay_difference
from ftcli.papers.mezo.replay import read_steps, replay_run
from ftcli.reproduce.measures.step_memory_over_inference import step_memory_over_inference
from ftcli.run.build import build_run, open_run

SHAPES = {"a.weight": (20, 30), "a.bias": (30,), "norm.weight": (30,), "b.weight": (5, 4, 3)}


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape).to(dtype))) for name, shape in SHAPES.items()]


def quadratic(named):
    """0.5 |theta - 1|^2, whose gradient is theta - 1; and how often it was asked for."""
    asked = []

    def closure():
        asked.append(torch.is_grad_enabled())
        return sum(0.5 * (p - 1).double().square().sum() for _, p in named)

    return closure, asked


def values(named):
    return [p.detach().clone() for _, p in named]


def direction(named, seed):
    """z of a seed, from what a move by 1 adds to zeros."""
    zeros = [(name, nn.Parameter(torch.zeros_like(p))) for name, p in named]
    MeZO(zeros)._move(seed, 1.0)
    return values(zeros)


@pytest.mark.parametrize(
    ("copies", "dtype", "drift"),
    [(0, torch.float32, 1e-6), (2**20, torch.float32, 0), (2**20, torch.bfloat16, 0)],
)
def test_a_probe_leaves_the_weights_where_they_were(copies, dtype, drift):
    named = parameters(dtype)
    before = values(named)
    optimizer = MeZO(named, lr=0.0, eps=1e-3, copies=copies)
    seen = []
    optimizer.step(lambda: seen.append(values(named)) or 0.0)
    for start, plus, minus, (name, p) in zip(before, *seen, named, strict=True):
        assert (p - start).abs().max().item() <= drift, name
        assert not torch.equal(plus, start) and not torch.equal(minus, start)
        if dtype == torch.float32:
            assert torch.allclose((plus + minus) / 2, start, atol=1e-6)


def test_sixteen_bits_drift_without_copies():
    named = parameters(torch.bfloat16)
    before = values(named)
    MeZO(named, lr=0.0, copies=0).step(lambda: 0.0)
    assert (
        max((p - start).abs().max().item() for start, (_, p) in zip(before, named, strict=True))
        > 1e-3
    )


def test_the_slope_on_a_quadratic_is_that_of_its_gradient():
    named = [(name, nn.Parameter(p.double())) for name, p in parameters()]
    optimizer = MeZO(named, lr=0.0, eps=1e-3)
    gradient = [p.detach() - 1 for _, p in named]
    optimizer.step(quadratic(named)[0])
    z = direction(named, optimizer.last_figures["seed"])
    exact = sum((a * b).sum() for a, b in zip(z, gradient, strict=True)).item()
    assert optimizer.last_figures["g"] == pytest.approx(exact, rel=1e-9)
    l1, l2 = optimizer.last_figures["l1"], optimizer.last_figures["l2"]
    assert optimizer.last_figures["g"] == pytest.approx((l1 - l2) / 2e-3)


def test_a_step_moves_along_the_logged_direction_and_decays_by_name():
    named = parameters()
    before = values(named)
    optimizer = MeZO(named, lr=0.01, weight_decay=0.5)
    optimizer.step(quadratic(named)[0])
    ((seed, slope, lr),) = optimizer.last_directions
    for (name, p), start, z in zip(named, before, direction(named, seed), strict=True):
        decay = 0.5 if name in ("a.weight", "b.weight") else 0.0
        assert torch.allclose(p, start - lr * (slope * z + decay * start), atol=1e-6), name
    assert lr == pytest.approx(0.01, rel=1e-6)


def test_n_directions_are_averaged():
    named = parameters()
    before = values(named)
    closure, asked = quadratic(named)
    optimizer = MeZO(named, lr=0.01, directions=3)
    optimizer.step(closure)
    assert len(asked) == 6 and len({d.seed for d in optimizer.last_directions}) == 3
    mean = [
        sum(d.slope / 3 * z for d, z in zip(optimizer.last_directions, zs, strict=True))
        for zs in zip(*(direction(named, d.seed) for d in optimizer.last_directions), strict=True)
    ]
    for (_, p), start, estimate in zip(named, before, mean, strict=True):
        assert torch.allclose(p, start - 0.01 * estimate, atol=1e-5)


def test_the_mean_estimate_turns_towards_the_gradient():
    """The cosine of the mean of n estimates in d dimensions is about sqrt(n / (n + d + 1))."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(100, dtype=torch.float64))
    optimizer = MeZO([("w", weight)], lr=0.0)
    gradient, total = weight.detach() - 1, torch.zeros(100, dtype=torch.float64)
    cosines = {}
    for n in range(1, 1601):
        optimizer.step(lambda: 0.5 * (weight - 1).square().sum())
        (z,) = direction([("w", weight)], optimizer.last_figures["seed"])
        total += optimizer.last_figures["g"] * z
        cosines[n] = torch.cosine_similarity(total, gradient, dim=0).item()
    for n in (100, 400, 1600):
        assert cosines[n] == pytest.approx((n / (n + 101)) ** 0.5, abs=0.1)


def test_what_a_step_leaves_alone():
    named = parameters()
    closure, asked = quadratic(named)
    optimizer = MeZO(named, lr=0.01)
    generator = torch.get_rng_state()
    returned = optimizer.step(closure)
    assert asked == [False, False]  # two losses, without a graph
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for _, p in named)
    assert optimizer_state.elements(optimizer) == 0
    assert float(returned) == optimizer.last_figures["l1"]


def test_directions_do_not_depend_on_what_a_loss_draws():
    seeds = []
    for draws in (0, 3):
        named = parameters()
        optimizer = MeZO(named, lr=0.01)
        for _ in range(3):
            optimizer.step(lambda draws=draws: torch.randn(draws + 1)[0] * 0)
        seeds.append([values(named), optimizer.last_figures["seed"]])
    assert seeds[0][1] == seeds[1][1]
    assert all(torch.equal(a, b) for a, b in zip(seeds[0][0], seeds[1][0], strict=True))


def test_a_tied_tensor_is_moved_once():
    weight = nn.Parameter(torch.zeros(10, 3))
    twin = nn.Parameter(weight.data)  # the same memory under another object
    optimizer = MeZO([("embed.weight", weight), ("head.weight", twin)], lr=0.0, eps=1.0)
    seen = []
    optimizer.step(lambda: seen.append(weight.detach().clone()) or 0.0)
    alone = nn.Parameter(torch.zeros(10, 3))
    MeZO([("embed.weight", alone)], lr=0.0, eps=1.0).step(lambda: 0.0)
    z = direction([("embed.weight", alone)], optimizer.last_figures["seed"])[0]
    assert torch.equal(seen[0], z)


def test_a_large_tensor_is_drawn_piece_by_piece(monkeypatch):
    drawn = []
    empty_like = torch.empty_like
    monkeypatch.setattr(
        module.torch, "empty_like", lambda t: drawn.append(t.numel()) or empty_like(t)
    )
    weight = nn.Parameter(torch.zeros(3, module.CHUNK))
    MeZO([("w", weight)])._move(1, 1.0)
    assert drawn == [module.CHUNK] * 3
    assert weight.std().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(weight[0], weight[1])


def test_what_a_policy_has_frozen_does_not_move():
    named = parameters()
    named[0][1].requires_grad_(False)
    before = values(named)
    MeZO(named, lr=0.1, weight_decay=0.1).step(quadratic(named)[0])
    changed = [not torch.equal(a, p) for a, (_, p) in zip(before, named, strict=True)]
    assert changed == [False, True, True, True]


@pytest.mark.parametrize("copies", [0, 2**20])
def test_a_log_replays_to_the_same_bits(copies):
    options = {"weight_decay": 0.1, "directions": 2, "copies": copies}
    whole, replayed = parameters(), parameters()
    optimizer, other = MeZO(whole, lr=0.01, **options), MeZO(replayed, lr=0.01, **options)
    log = []
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
        optimizer.step(quadratic(whole)[0])
        log.append([Direction(*RECORD.unpack(RECORD.pack(*d))) for d in optimizer.last_directions])
    for taken in log:
        other.replay(taken)
    assert all(torch.equal(a, b) for a, b in zip(values(whole), values(replayed), strict=True))
    assert not torch.equal(whole[0][1], parameters()[0][1])


def test_resumed_steps_are_equal_to_the_bit():
    whole = parameters()
    optimizer = MeZO(whole, lr=0.01)
    for _ in range(3):
        optimizer.step(quadratic(whole)[0])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    resumed = [(name, nn.Parameter(p.detach().clone())) for name, p in whole]
    other = MeZO(resumed, lr=0.01)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.last_figures == optimizer.last_figures
    for named, opt in ((whole, optimizer), (resumed, other)):
        for _ in range(3):
            opt.step(quadratic(named)[0])
    assert all(torch.equal(a, b) for a, b in zip(values(whole), values(resumed), strict=True))


def test_it_needs_a_loss():
    with pytest.raises(ValueError, match="closure"):
        MeZO(parameters()).step()
    with pytest.raises(UserError, match="must be positive"):
        Replayable("ftcli.optimizers.mezo.MeZO", eps=0.0).build(parameters(), "cpu")


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    def callback():
        part = Replayable("ftcli.optimizers.mezo.MeZO", lr=0.01)
        named = parameters()
        part.build(named, "cpu")
        main = SimpleNamespace(is_main_process=True)
        part.setup(SimpleNamespace(dir=SimpleNamespace(path=tmp_path), seed=1, accelerator=main))
        return part, quadratic(named)[0]

    part, closure = callback()
    saved = {}
    for step in range(4):
        part.optimizer.step(closure)
        part.after_step(None)
        if step == 1:
            saved = part.state_dict() | {"torch": part.optimizer.state_dict()}
    whole = (tmp_path / FILE).read_bytes()
    assert len(whole) == 4 * RECORD.size == 48
    part, closure = callback()
    part.optimizer.load_state_dict(saved.pop("torch"))
    part.load_state_dict(saved)
    assert (tmp_path / FILE).read_bytes() == whole[:24]
    part.optimizer.step(closure)
    part.after_step(None)
    seeds = [taken[0].seed for taken in read_steps(tmp_path / FILE)]
    assert seeds == [taken[0].seed for taken in _steps_of(whole, tmp_path)][:3]


def _steps_of(content, folder):
    (folder / "other.bin").write_bytes(content)
    return read_steps(folder / "other.bin")


TINY = (
    "method=lora", "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32", "data=mr",
    "data.limit=40", "data.validation=0.2", "data.test=null", "objective=label_words",
    "optimizer=mezo", "optimizer.lr=1e-3", "optimizer.eps=1e-2", "trainer.max_steps=4",
    "trainer.batch_size=4", "trainer.eval_first=false", "eval=none", "method.r=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mezo")
    composed = compose(
        "qlora_mini", [*TINY, f"run.dir={root / 'runs'}", f"data.cache_dir={root / 'tokens'}"]
    )
    validate_and_convert(composed)
    return SimpleNamespace(result=train(composed), root=root)


def test_a_run_costs_two_forward_passes_a_step_and_no_state(run_folder):
    result = run_folder.result
    assert result["status"] == "finished" and result["step"] == 4
    assert result["forward_passes"] == 8
    assert result["optimizer_state_elements"] == 0


def test_a_run_is_replayed_from_its_log_alone(run_folder):
    folder = Path(run_folder.result["run"])
    assert (folder / FILE).stat().st_size == 4 * RECORD.size
    trained, replayed = open_run(folder), replay_run(folder)
    fresh = build_run(trained.config)
    fresh.load_model()
    pairs = zip(
        trained.get_trained_tensors().items(), replayed.get_trained_tensors().values(), strict=True
    )
    for (name, a), b in pairs:
        assert torch.equal(a, b), name
    assert any(
        not torch.equal(a, b)
        for a, b in zip(
            trained.get_trained_tensors().values(),
            fresh.get_trained_tensors().values(),
            strict=True,
        )
    )


def test_a_broken_log_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        list(read_steps(tmp_path / FILE))
    (tmp_path / FILE).write_bytes(b"12345")
    with pytest.raises(UserError, match="ends within a step"):
        list(read_steps(tmp_path / FILE))


RESIDENT = """
import re
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from ftcli.optimizers.mezo import MeZO

def memory(kind):
    return int(re.search(kind + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.manual_seed(0)
shape = dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8, vocab_size=8192)
ids = torch.randint(8192, (4, 64))
torch.randn(256, 256) @ torch.randn(256, 256)  # what the first product loads is no model's
start = memory("VmRSS")
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=8, **shape)).eval()
loss = lambda: model(input_ids=ids, labels=ids).loss
with torch.no_grad():
    loss(), loss()
forward = memory("VmHWM") - start
optimizer = MeZO(model.named_parameters(), lr=1e-6)
optimizer.step(loss), optimizer.step(loss)
print(forward, memory("VmHWM") - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_takes_the_memory_of_inference():
    """42M parameters: the highest resident memory of the process, what was there before aside."""
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    forward, step = map(float, done.stdout.split())
    assert forward > 150  # MB: the weights are in it
    assert step < 1.1 * forward


def test_measures_of_a_run_without_gradients(run_folder):
    folder = Path(run_folder.result["run"])
    assert replay_difference(folder) == 0
    assert gradients_taken(folder) == 0
    ratio = step_memory_over_inference(folder)
    assert ratio >= 1
    assert ratio < 1.1


def test_measures_see_gradients_and_a_log_that_is_not_the_run(run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder.result["run"], folder)
    log = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(log[: -RECORD.size])
    assert replay_difference(folder) > 0
    composed = compose("qlora_mini", [*TINY, "optimizer=adamw", "optimizer.eps=1e-8"])
    OmegaConf.save(OmegaConf.create(composed.config), folder / "config.yaml")
    assert gradients_taken(folder) == 112  # A and B of seven linears in eight blocks
    assert step_memory_over_inference(folder) > 1.3
