"""Several ranks, whole weights or a part in each, train what one process trains; any number of them resumes.

Run over gloo on the CPU. Where losses are compared, sampled answers are a function of their prompt, so that GRPO trains
on the same answers however its prompts are divided; those ranks are forked from a process that has imported the libraries.
"""

from __future__ import annotations

import json
import multiprocessing
import uuid
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ftcli.config import compose, validate_and_convert
from ftcli.core.run_dir import RunDir
from ftcli.jobs.launch import LaunchTopology, _run_rank, launch
from ftcli.jobs.train import resume, train
from ftcli.objectives import rewarding
from ftcli.objectives.sampling import SampledAnswer
from ftcli.run.build import create_directory, open_run
from ftcli.trainer.checkpoint_io import load_weights

JOB = (
    "data.limit=60", "trainer.epochs=null", "trainer.max_steps=3", "trainer.save_every=1", "trainer.keep_last=9",
    "trainer.eval_every=null", "eval=loss", "method=lora", "method.r=4", "model.quantization=none",
    "trainer.precision=fp32", "model.dtype=float32", "trainer.log_every=1", "scheduler=constant",
    "~scheduler.warmup_ratio",
)  # fmt: skip
OBJECTIVES = {
    "sft": (),
    "full": ("method=full", "~method.r", "~method.lora_alpha", "optimizer.lr=1e-3"),
    "recomputed": ("trainer.gradient_checkpointing=true", "objective.chunk_size=16"),
    "dpo": ("data=e2e_pairs", "data.pairs=true", "objective=dpo", "optimizer.lr=1e-3"),
    "grpo": (
        "objective=grpo", "objective.num_generations=3", "objective.max_new_tokens=6", "objective.beta=0.1",
        "objective.rewards={cosine_length: {judge: exact_match, unit: characters, longest: 60}}", "optimizer.lr=1e-3",
    ),
}  # fmt: skip
IMPORTED = [
    "accelerate", "peft", "torch.distributed.fsdp", "transformers.models.llama.modeling_llama", "ftcli.config",
    "ftcli.jobs.train", "ftcli.trainer.trainer", "ftcli.objectives.rewarding",
]  # fmt: skip


def answer_by_prompt(model, tokenizer, prompts, count, *_, **__):
    """Answers of several lengths, the same for a prompt in any batch."""
    return [
        [SampledAnswer([10 + (sum(ids) + 7 * i + k) % 200 for k in range(2 + i)], False) for i in range(count)]
        for ids in prompts
    ]  # fmt: skip


def train_rank(run):
    rewarding.sample_answers = answer_by_prompt
    _run_rank(run, "")


def train_in_ranks(run, count):
    multiprocessing.set_forkserver_preload(IMPORTED)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex, max_restarts=0, start_method="forkserver",
    )  # fmt: skip
    elastic_launch(config, train_rank)(str(run))


def job(folder, *overrides):
    composed = compose("qlora_mini", [*JOB, f"run.dir={folder}", *overrides])
    validate_and_convert(composed)
    return composed


def losses(run):
    rows = [row for row in RunDir(run).metrics() if "loss" in row]
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for step, (loss, norm) in theirs.items():
        assert ours[step][0] == pytest.approx(loss, abs=1e-5)
        assert ours[step][1] == pytest.approx(norm, rel=1e-4)


def test_one_process_resumes_from_parts(tmp_path):
    words = ("trainer=fsdp2", "trainer.batch_size=2", "eval=none", "trainer.max_steps=2")
    run = Path(train(job(tmp_path, *words))["run"])
    then = losses(run)
    assert len(list((run / "checkpoints/step-000001").glob("shard-*.safetensors"))) == 1
    again = resume(run, checkpoint="step-000001", overrides=["trainer.max_steps=3"])
    now = losses(again["run"])
    assert now.pop(3)
    assert now == then


@pytest.mark.slow
def test_parts_of_weights_train_what_one_process_trains(tmp_path):
    words = ("trainer=fsdp2", "trainer.batch_size=2", "trainer.max_steps=2", "eval=none")
    apart = launch(job(tmp_path, *words, "trainer.save_every=null"), LaunchTopology(2))
    alone = train(job(tmp_path, *words, "trainer.gradient_accumulation_steps=2"))
    assert_equal(losses(apart["run"]), losses(alone["run"]))
    a, b = (load_file(Path(r["run"]) / "adapter/adapter_model.safetensors") for r in (apart, alone))
    assert max((a[name] - b[name]).abs().max().item() for name in b) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "count"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_those_of_one_process(tmp_path, monkeypatch, objective, strategy, count):
    words = (
        *OBJECTIVES[objective],
        f"trainer.strategy={strategy}",
        f"trainer.batch_size={8 // count}",
    )
    run = create_directory(job(tmp_path, *words)).path
    train_in_ranks(run, count)
    monkeypatch.setattr(rewarding, "sample_answers", answer_by_prompt)
    alone = train(job(tmp_path, *words, f"trainer.gradient_accumulation_steps={count}"))
    assert_equal(losses(run), losses(alone["run"]))
    first = json.loads((run / "result.json").read_text())["metrics"]
    assert first["eval.loss"] == pytest.approx(alone["metrics"]["eval.loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("saved_by", "count"), [(4, 1), (4, 2), (2, 4)])
def test_another_number_of_ranks_resumes(tmp_path, saved_by, count):
    passes = f"trainer.gradient_accumulation_steps={4 // saved_by}"
    words = ("trainer=fsdp2", "trainer.batch_size=2", passes, "eval=none")
    run = create_directory(job(tmp_path, *words)).path
    train_in_ranks(run, saved_by)
    then, checkpoints = losses(run), run / "checkpoints"
    assert len(list((checkpoints / "step-000001").glob("shard-*.safetensors"))) == saved_by
    longer = ["trainer.max_steps=4"]
    again = resume(run, checkpoint="step-000001", overrides=longer, topology=LaunchTopology(count))
    now = losses(again["run"])
    assert now.pop(4)
    assert_equal(now, then)
    opened = open_run(run)  # what eval, chat and merge read
    load_weights(checkpoints / "last", opened)
    saved = load_file(run / "adapter/adapter_model.safetensors")
    assert all(
        (saved[name] - tensor).abs().max() == 0
        for name, tensor in opened.get_trained_tensors().items()
    )


@pytest.mark.slow
def test_answers_are_sampled_by_parts_of_weights_in_half_precision(tmp_path):
    words = (
        *OBJECTIVES["grpo"],
        "trainer=fsdp2",
        "trainer.batch_size=2",
        "objective.generation_batch_size=2",
        "model.dtype=bfloat16",
        "trainer.precision=bf16",
    )
    result = launch(job(tmp_path, *words), LaunchTopology(2))
    assert result["status"] == "finished" and result["step"] == 3


@pytest.mark.slow
def test_early_stopping_ends_all_ranks_at_the_same_step(tmp_path):
    words = ("trainer=fsdp2", "trainer.batch_size=2", "trainer.eval_every=1", "trainer.max_steps=9")
    least = ("callback.early_stopping.min_delta=100", "callback.early_stopping.patience=1")
    run = create_directory(job(tmp_path, *words, "callback=early_stopping", *least)).path
    train_in_ranks(run, 2)
    result = RunDir(run).result()
    assert result["status"] == "finished" and result["step"] == 1
    assert result["ended_early"].startswith("loss")
