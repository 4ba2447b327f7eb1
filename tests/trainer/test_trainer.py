"""Guarantees of the loop: accumulation, packing, determinism, checkpoints, signals."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

import ftcli.trainer
from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import FAILED, UserError
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import train
from ftcli.run.build import build_run, create_run_in_new_dir, open_run
from ftcli.trainer.checkpoint import Checkpoints
from tests.warm_process import start_ftcli

COMMON = [
    "data.limit=40", "trainer.epochs=null", "~eval.generation", "method.r=4", "trainer.log_every=1",
    "trainer.precision=fp32", "model.dtype=float32",
]  # fmt: skip


def composed(*overrides: str):
    job = compose("qlora_mini", [*COMMON, *overrides])
    validate_and_convert(job)
    return job


def build(*overrides: str) -> Run:
    """A run without a directory."""
    run = build_run(composed(*overrides).config)
    run.load_model()
    return run


def fitted(*overrides: str) -> Run:
    run = build(*overrides, "trainer.eval_first=false", "~eval.loss", "trainer.save_every=null")
    run.trainer.fit(run)
    return run


def furthest(a: Run, b: Run) -> float:
    pairs = zip(a.get_trained_tensors().values(), b.get_trained_tensors().values(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


@pytest.mark.parametrize("reduction", ["token", "sequence", "target"])
def test_accumulation_equals_the_large_batch(reduction):
    """4 x 2 rows give the weights of 1 x 8 rows after one plain gradient step, to 1e-6."""
    shared = [
        "trainer.max_steps=1", "model.quantization=none", "method=lora", "optimizer.optimizer_class=torch.optim.SGD",
        "optimizer.lr=0.1", "scheduler=constant", f"objective.reduction={reduction}", "seed=3",
    ]  # fmt: skip
    large = fitted(*shared, "trainer.batch_size=8")
    small = fitted(*shared, "trainer.batch_size=2", "trainer.gradient_accumulation_steps=4")
    untouched = build(*shared)
    assert furthest(large, untouched) > 1e-4, "nothing was learned, so nothing was compared"
    assert furthest(large, small) < 1e-6


def test_every_pass_ends_with_its_last_rows_and_is_ordered_once(monkeypatch):
    """40 rows in batches of 4, 3 of which are a step: the tenth batch of a pass is a step by itself."""
    from ftcli.data.loader import Loader

    orders: list[int] = []
    order = Loader._order_batches
    monkeypatch.setattr(
        Loader, "_order_batches", lambda self, epoch: orders.append(epoch) or order(self, epoch)
    )
    run = build("trainer.epochs=2", "trainer.max_steps=null", "trainer.batch_size=4",
                "trainer.gradient_accumulation_steps=3", "data.packing=none", "data.validation=null",
                "trainer.eval_first=false", "~eval.loss", "trainer.save_every=null")  # fmt: skip
    state = run.trainer.fit(run).state
    assert (state.step, state.epoch, state.batch) == (8, 1, 10)
    assert sorted(orders) == [0, 0, 1], "once to count the steps, once a pass"


def test_the_step_loss_is_the_mean_over_all_tokens_of_the_accumulated_batch():
    run = build("trainer.max_steps=1", "trainer.batch_size=2", "method.lora_dropout=0.0")
    plan = run.build_loader().list_batch_indices(0)[:4]
    batches = [run.build_loader().batch(rows) for rows in plan]
    with torch.no_grad():
        values = torch.cat([run.objective(run.model, batch).values for batch in batches])
    total = sum(run.objective.numerator(run.objective(run.model, b)) for b in batches)
    assert float(total.detach() / run.objective.denominator(batches)) == pytest.approx(
        float(values.mean()), rel=1e-6
    )


def test_packed_rows_train_like_padded_ones():
    """One step on the same eight rows, laid end to end or padded, ends in the same weights."""
    shared = [
        "trainer.max_steps=1", "trainer.batch_size=40", "model.quantization=none", "method=lora",
        "optimizer.optimizer_class=torch.optim.SGD", "optimizer.lr=0.1", "scheduler=constant",
    ]  # fmt: skip
    packed = fitted(*shared, "data.packing=flat")
    assert furthest(packed, fitted(*shared, "data.packing=none")) < 1e-5


def test_training_leaves_the_bytes_of_a_quantised_base_alone():
    def digest(run: Run) -> str:
        state = hashlib.sha256()
        for name, parameter in run.model.named_parameters():
            if not parameter.requires_grad:
                state.update(name.encode())
                state.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()

    run = build("trainer.max_steps=3", "trainer.batch_size=4", "trainer.save_every=null")
    before, untrained = digest(run), {n: t.clone() for n, t in run.get_trained_tensors().items()}
    run.trainer.fit(run)
    assert digest(run) == before
    assert any(not torch.equal(t, untrained[n]) for n, t in run.get_trained_tensors().items())


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(tmp_path):
    poisoned = composed("trainer.max_steps=4", "trainer.batch_size=2", f"run.dir={tmp_path}")
    run = create_run_in_new_dir(poisoned)
    from ftcli.jobs.train import train_with_lock

    class Poison:
        """Breaks the weights after the second step."""

        def __getattr__(self, hook):
            return lambda *args: None

        def state_dict(self):
            return {}

        def after_step(self, state):
            if state.step == 2:
                next(p for p in run.model.parameters() if p.requires_grad).data.fill_(torch.nan)

    run.loggers["poison"] = Poison()
    with pytest.raises(UserError, match=r"the loss was nan at step 3, on rows .*:\d+") as caught:
        train_with_lock(run, None)
    assert caught.value.code == FAILED


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, second = fitted("trainer.max_steps=2"), fitted("trainer.max_steps=2")
    assert furthest(first, second) == 0.0
    assert furthest(first, fitted("trainer.max_steps=2", "seed=1")) > 0.0


def test_evaluating_more_often_does_not_change_what_is_trained(tmp_path):
    """Dropout draws random numbers; evaluation must not consume them."""
    options = ["trainer.max_steps=4", "method.lora_dropout=0.2", "trainer.batch_size=2"]
    often = build(*options, "trainer.eval_every=1", "trainer.save_every=null")
    often.trainer.fit(often)
    assert furthest(often, fitted(*options)) == 0.0


@pytest.mark.parametrize(
    "options", [["trainer.gradient_checkpointing=true"], ["objective.chunk_size=16"]]
)
def test_saving_memory_changes_nothing(options):
    """By SGD: AdamW would turn a rounding of a tiny gradient into a step of the learning rate."""
    shared = [
        "trainer.max_steps=2", "trainer.batch_size=4", "scheduler=constant",
        "optimizer.optimizer_class=torch.optim.SGD", "optimizer.lr=0.1",
    ]  # fmt: skip
    plain = fitted(*shared)
    assert furthest(plain, build(*shared)) > 1e-3, "nothing was learned, so nothing was compared"
    assert furthest(plain, fitted(*shared, *options)) < 1e-6


@pytest.mark.slow
def test_compiled_blocks_train_the_same():
    options = [
        "trainer.max_steps=2", "trainer.batch_size=2", "model.quantization=none", "method=lora",
        "optimizer.optimizer_class=torch.optim.SGD", "optimizer.lr=0.1",
    ]  # fmt: skip
    plain = fitted(*options)
    assert furthest(plain, fitted(*options, "trainer.max_steps=1")) > 1e-4
    assert furthest(plain, fitted(*options, "trainer.compile=true")) < 1e-5


def test_old_checkpoints_go_and_remains_of_crashes_are_ignored(tmp_path):
    result = train(
        composed(
            "trainer.max_steps=6", "trainer.save_every=1", "trainer.keep_last=2",
            "trainer.batch_size=1", f"run.dir={tmp_path}",
        )
    )  # fmt: skip
    checkpoints = Checkpoints(Path(result["run"]) / "checkpoints")
    assert [path.name for path in checkpoints.list_complete()] == ["step-000005", "step-000006"]
    assert (checkpoints.folder / "last").resolve().name == "step-000006"
    (checkpoints.folder / "step-000006" / "DONE").unlink()
    assert checkpoints.find("last").name == "step-000005"
    with pytest.raises(UserError, match="there is: step-000005"):
        checkpoints.find("step-000006")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_130(number, tmp_path):
    arguments = [*COMMON, "trainer.max_steps=500", "~eval.loss", f"run.dir={tmp_path}"]
    screen = tmp_path / "screen"
    environment = os.environ | {"FTCLI_QUIET": ""}
    process = start_ftcli(
        ["train", "qlora_mini", *arguments], output=screen, environment=environment
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130
    path = next(p for p in (tmp_path / "qlora_mini").iterdir() if not p.is_symlink())
    assert f"ftcli resume {path}" in " ".join(screen.read_text().split())
    result = RunDir(path).result()
    assert result["status"] == f"stopped by {signal.Signals(number).name}"
    assert Checkpoints(path / "checkpoints").find("last").name == f"step-{result['step']:06d}"


def test_the_loop_knows_no_method_by_name():
    """Nothing in ftcli/trainer names a method, an objective, an optimizer or a model family."""
    root = Path(__file__).parents[2]
    names = {
        path.stem for group in ("method", "objective", "optimizer", "model")
        for folder in (root / "configs", *root.glob("recipes/*/configs"))
        for path in (folder / group).glob("*.yaml")
    } - {"full", "prompt", "causal_lm"}  # fmt: skip
    assert {"lora", "adamw", "llama_mini"} <= names
    words = re.compile(rf"\b({'|'.join(sorted(names))}|peft|causal_lm)\b", re.IGNORECASE)
    for path in Path(ftcli.trainer.__file__).parent.glob("*.py"):
        assert not words.findall(path.read_text(encoding="utf-8")), path


def test_the_loop_fits_on_a_few_screens():
    source = Path(ftcli.trainer.__file__).parent / "trainer.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) < 200


def test_the_best_checkpoint_is_that_of_the_lowest_held_out_loss(tmp_path):
    result = train(
        composed(
            "trainer.max_steps=6", "trainer.eval_every=2", "trainer.batch_size=4",
            "data.validation=0.2", f"run.dir={tmp_path}",
        )
    )  # fmt: skip
    rows = [row for row in RunDir(result["run"]).metrics() if "eval.loss" in row]
    best = min(rows[1:], key=lambda row: row["eval.loss"])
    checkpoint = Checkpoints(Path(result["run"]) / "checkpoints").find("best")
    assert checkpoint.name == f"step-{best['step']:06d}"


def test_what_is_loaded_later_is_what_was_judged(tmp_path):
    """Schedule-free evaluates averaged weights: the folder of the run must give those back."""
    result = train(
        composed(
            "trainer.max_steps=5", "optimizer=schedulefree", "optimizer.lr=0.01",
            "trainer.batch_size=4", "data.validation=0.2", f"run.dir={tmp_path}",
        )
    )  # fmt: skip
    reopened = open_run(result["run"])
    scores = reopened.evaluators["loss"](reopened)
    assert scores["loss"] == pytest.approx(result["metrics"]["eval.loss"], abs=1e-6)
