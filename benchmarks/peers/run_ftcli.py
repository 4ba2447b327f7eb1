"""ftcli, from the configuration to the last step; `task["job"]` and `task["overrides"]` are the job.

With PYTHONPATH set to another checkout, that build is measured. `task["rise"]` also measures how far training
raises the resident set above the loaded model.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from meter import Meter, read_task

task = read_task()
meter = Meter(task)

from ftcli.config import compose, validate_and_convert  # noqa: E402

composed = compose(task["job"], [*task["overrides"], f"trainer.max_steps={task['steps']}"])
validate_and_convert(composed)

from ftcli.core.callback import Callback  # noqa: E402
from ftcli.jobs.bench import Memory, shorten  # noqa: E402
from ftcli.run.build import build_run  # noqa: E402

memory, block = Memory(), ExitStack()
labels = [0]


class Recorder(Callback):
    """Gives the ends of steps to the meter."""

    def before_step(self, state: Any) -> None:
        if task.get("rise") and state.step == 0:
            block.enter_context(memory)

    def after_step(self, state: Any) -> None:
        meter.end_step(state.tokens)
        labels[0] = state.supervised


run = build_run(shorten(composed.config, task["steps"]))
run.loggers["recorder"] = Recorder()  # type: ignore[assignment]
with block:
    run.trainer.fit(run)
trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
rise = {} if memory.growth_mb is None else {"rise_mb": memory.growth_mb}
meter.report(trained=trained, labels=labels[0], **rise)
