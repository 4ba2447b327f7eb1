"""Out of memory: one message with step, batch and what would fit; checkpoints stay."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from ftcli.core.allocator import is_oom
from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import OUT_OF_MEMORY, UserError
from ftcli.jobs.train import resume, train
from ftcli.models.causal_lm import CausalLMSource as Source
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.trainer.checkpoint import Checkpoints
from tests.trainer.test_guard import job, only

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
CPU += "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": RuntimeError(CPU),
    "python": MemoryError(),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "cpu" else [pytest.mark.slow]) for k in ERRORS]
)
def test_it_names_step_batch_and_what_would_fit(kind, tmp_path, monkeypatch):
    original, calls = NextTokenPrediction.__call__, []

    def fails(self, model, batch):
        calls.append(batch["indices"])
        if len(calls) == 3:
            raise ERRORS[kind]
        return original(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(NextTokenPrediction, "__call__", fails)
        patch.setattr(
            Source, "select_batch_layout", lambda *_: BatchLayout("flat")
        )  # it would be counted too
        # what fits depends on the memory of the process, which depends on earlier tests
        patch.setattr("ftcli.trainer.meter.peak_memory_gb", lambda: 10.0)
        with pytest.raises(UserError) as caught:
            train(job(tmp_path, "method.r=4", "trainer.batch_size=4"))
    message, run = str(caught.value), only(tmp_path)
    assert caught.value.code == OUT_OF_MEMORY
    assert re.search(r"in step 3, micro-batch of 4 rows, \d+ tokens end to end", message)
    assert message.count("train.jsonl.gz:") == 4 and "step-000002 is complete" in message
    assert "trainer.batch_size=2 trainer.gradient_accumulation_steps=2" in message
    assert "\n" not in message.split("\n  fix:")[0] and "enforce fail" not in message
    assert "Traceback" in (run / "train.log").read_text()
    assert Checkpoints(run / "checkpoints").find("last").name == "step-000002"
    assert resume(run)["step"] == 4


def test_other_errors_are_not_taken_for_it():
    assert not is_oom(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_oom(ValueError("out of memory")) and is_oom(OSError(12, "Cannot allocate memory"))


LIMITED = """
import resource, sys
import torch, transformers, peft, accelerate
import ftcli.core.run, ftcli.jobs.train, ftcli.models.anatomy, ftcli.planning.fit
from ftcli.cli.app import run
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_a_real_one_under_a_limit_of_the_process(tmp_path):
    """600 MB more than the libraries take: a step on 400 rows needs several GB."""
    words = ["train", "qlora_mini", "data.limit=400", "data.validation=null", "data.test=null",
             "eval=none", "trainer.batch_size=400", "trainer.epochs=null", "trainer.max_steps=2",
             "method.r=4", f"run.dir={tmp_path}/runs"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "600", *words], capture_output=True, text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    message = " ".join(done.stderr.split())
    assert done.returncode == OUT_OF_MEMORY, message
    assert re.search(r"in step 1, micro-batch of 400 rows, [\d,]+ tokens", message), message
    assert "Traceback" not in done.stderr and "trainer.batch_size=" in message
