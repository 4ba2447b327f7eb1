"""The fixed protocol of speed and memory: a few steps of a job, in turn with a plain loop, in one process.

Both train the same rows in the same order. The first steps of a round are not timed, a short round of each
comes before all others, and medians over the rounds are reported.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ftcli.config.scores import EARLY_STOPPING
from ftcli.core.callback import Callback
from ftcli.core.errors import UserError
from ftcli.run.build import build_run

if TYPE_CHECKING:
    from ftcli.core.run import Run

WARM = 3  # steps of a round that are not timed
Figures = dict[str, float]


class Memory:
    """Growth of peak memory over a block, in MB: allocated on a GPU, else resident of the process.

    Attributes:
        growth_mb: None where the system does not say.
    """

    growth_mb: float | None = None

    def __enter__(self) -> Memory:
        gc.collect()
        self.before: int | None = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        with suppress(OSError):  # other systems than Linux
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the round before has freed
            Path("/proc/self/clear_refs").write_text("5")  # peak = now
            self.before = _read_status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            on_gpu = torch.cuda.is_available()
            after = torch.cuda.max_memory_allocated() if on_gpu else _read_status("VmHWM")
            self.growth_mb = (after - self.before) / 1e6


def _read_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class Clock(Callback):
    """Times at the ends of steps, and tokens so far, padding not counted."""

    def __init__(self) -> None:
        self.began, self.tokens = time.perf_counter(), [0]
        self.ends: list[float] = []

    def after_step(self, state: Any) -> None:
        self.record(state.tokens)

    def record(self, tokens: int) -> None:
        """Record the end of a step, with all tokens so far."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)

    def figures(self) -> Figures:
        """Return tokens a second after the steps that warm up, and seconds from the start to the first step."""
        spent = self.ends[-1] - self.ends[WARM - 1]
        return {
            "tok_s": (self.tokens[-1] - self.tokens[WARM]) / spent,
            "first_step_s": self.ends[0] - self.began,
        }


def bench(
    config: dict[str, Any],
    steps: int = 12,
    rounds: int = 3,
    against: str | None = None,
    choices: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure a resolved configuration; returns medians of each loop, their ratios, and what was measured.

    Args:
        steps: optimizer steps of a round; the first `WARM` are not timed.
        against: `plain` also measures transformers + peft with padded batches (`ftcli.jobs.plain_loop`).
        choices: group -> name of the option that was chosen, by which the result and errors call it.

    Raises:
        UserError: no step would be timed, the job cannot be trained, or the plain loop has no counterpart to it.
    """
    if steps <= WARM:
        raise UserError(
            f"a round of {steps} steps has none to time: the first {WARM} warm up.",
            where="--steps",
            fix=f"--steps {WARM + 1} or more; 12 by default",
        )
    short = shorten(config, steps)
    loops: dict[str, Callable[[dict[str, Any]], Clock]] = {"ftcli": _train}
    run = build_run(short)
    if against:
        from ftcli.jobs.plain_loop import PlainLoop

        try:
            loops[against] = PlainLoop(run)
        except UserError as error:
            raise _name_options(error, run, choices or {}) from error
    for loop in loops.values():  # libraries loaded, kernels chosen
        loop(shorten(config, 1))
    found: dict[str, list[Figures]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            with Memory() as memory:
                clock = loop(short)
            grown = {} if memory.growth_mb is None else {"growth_mb": memory.growth_mb}
            found[name].append(clock.figures() | grown)
    medians = {
        name: {key: statistics.median(f[key] for f in all_) for key in all_[0]}
        for name, all_ in found.items()
    }
    report = {**_describe(run, steps, rounds, choices or {}), **medians}
    if against:
        other = medians[against]
        report["ratio"] = {key: medians["ftcli"][key] / other[key] for key in other if other[key]}
    return report


def shorten(config: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return a configuration that trains these many steps, and evaluates, logs and saves nothing."""
    short = copy.deepcopy(config)
    quiet = {"eval_first": False, "eval_every": None, "save_every": None, "log_every": 1 << 30}
    short["trainer"] = {**short["trainer"], **quiet, "max_steps": steps}
    callbacks = {  # early stopping needs evaluations
        name: node
        for name, node in (short.get("callback") or {}).items()
        if not node or node.get("_target_") != EARLY_STOPPING
    }
    return short | {"eval": {}, "logger": {}, "callback": callbacks}


def _train(config: dict[str, Any]) -> Clock:
    """Train by ftcli, from the configuration to the last step."""
    clock = Clock()
    run = build_run(config)
    run.loggers["clock"] = clock  # type: ignore[assignment]
    (run.pipeline or run.trainer).fit(run)
    return clock


def _name_options(error: UserError, run: Run, choices: Mapping[str, str]) -> UserError:
    """Return the error with the names of the chosen options in the place of their classes."""
    what, built = (
        error.what,
        {"model": run.model_source, "method": run.method, "objective": run.objective},
    )
    for group, component in built.items():
        if group in choices:
            name = f"{group}={type(component).__name__}"
            what = re.sub(rf"\b{re.escape(name)}\b", f"{group}={choices[group]}", what)
    return UserError(what, error.where, error.fix, error.code)


def _describe(run: Run, steps: int, rounds: int, choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the conditions of the measurement: versions, machine, job, data and options."""
    from ftcli.run.record import environment

    env = environment()
    examples = run.data.prepare("train", run.tokenizer)
    lengths = getattr(examples, "lengths", None)
    config = run.config
    return {
        "model": run.model_source.name,
        "stored_as": config["model"].get("quantization", "none"),
        "dtype": config["model"].get("dtype"),
        "method": choices.get("method", type(run.method).__name__),
        "precision": run.trainer.precision,
        "device": env["gpus"][0] if env["gpus"] else env["processor"],
        "threads": env["threads"],
        "packages": {k: env["packages"].get(k) for k in ("ftcli", "torch", "transformers", "peft")},
        "steps": steps,
        "rounds": rounds,
        "rows_a_step": run.trainer.batch_size * run.trainer.gradient_accumulation_steps,
        "rows": len(examples),
        **({} if lengths is None else {"mean_length": float(lengths.mean()), "longest": int(lengths.max())}),
    }  # fmt: skip
