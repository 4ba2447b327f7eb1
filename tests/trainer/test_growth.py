"""Memory does not grow with the number of steps."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import pytest

from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import train_with_lock
from ftcli.run.build import create_run_in_new_dir
from tests.trainer.test_guard import job

LAST, FIRST = 5_000, 500


class Gauge:
    """Resident bytes and Python objects after some steps."""

    def __init__(self):
        self.seen = {}

    def __getattr__(self, hook):
        return lambda *args: None

    def state_dict(self):
        return {}

    def after_step(self, state):
        if state.step % FIRST == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen[state.step] = (pages * resource.getpagesize(), len(gc.get_objects()))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_five_thousand_steps_grow_by_nothing(tmp_path):
    """With logs, checkpoints, skipping and spikes looked for: everything that could accumulate."""
    gauge = Gauge()
    run = create_run_in_new_dir(
        job(tmp_path, "method.r=4", f"trainer.max_steps={LAST}", "trainer.batch_size=1", "data.max_length=32",
            "model.quantization=none", "method=lora",
            "trainer.log_every=10", "trainer.save_every=250", "trainer.keep_last=2",
            "trainer.on_nonfinite=skip", "trainer.on_spike=rollback", "trainer.max_rollbacks=0"),
    )  # fmt: skip
    run.loggers["gauge"] = gauge
    load = run.model_source.load

    def shallow():
        """One block: growth would be per step, not per block."""
        base = load()
        base.model.layers = base.model.layers[:1]
        base.config.num_hidden_layers = 1
        return base

    run.model_source.load = shallow
    train_with_lock(run, None)
    (bytes_then, objects_then), (bytes_now, objects_now) = gauge.seen[FIRST], gauge.seen[LAST]
    print({step: (size / 1e6, count) for step, (size, count) in gauge.seen.items()})
    assert len(RunDir(run.dir.path).metrics()) >= LAST // 10
    assert bytes_now - bytes_then < 8e6, gauge.seen
    assert objects_now - objects_then < 500, gauge.seen
