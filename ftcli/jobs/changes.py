"""Configuration changes that a resumed run may take: when it ends, logs, evaluates and saves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftcli.core.atomic import write_text
from ftcli.core.errors import Problems, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ftcli.config import ComposedJob
    from ftcli.core.run import Run
    from ftcli.core.run_dir import RunDir
    from ftcli.trainer.trainer import Trainer

log = logging.getLogger("ftcli.config")

#: Keys, and groups with all their keys, that do not change what a training step computes.
FREE_KEYS = (
    "trainer.max_steps", "trainer.epochs", "trainer.log_every", "trainer.eval_every", "trainer.eval_first",
    "trainer.save_every", "trainer.keep_last", "trainer.on_nonfinite", "trainer.max_skipped",
    "trainer.on_spike", "trainer.spike_factor", "trainer.max_rollbacks",
    "trainer.gradient_checkpointing", "callback.early_stopping", "eval", "logger", "run.name",
)  # fmt: skip
ENDED_FOLDER = "ended"  # folder that keeps the results of a finished run when it is resumed
OUTCOME = ("result.json", "report.md", "eval")
RECORD = ("config.yaml", "sources.yaml", "metrics.jsonl")

Change = tuple[Any, Any]


def compose_config(run_dir: RunDir, overrides: Sequence[str]) -> ComposedJob:
    """Return the configuration of a run with the overrides of the command line applied and validated.

    Raises:
        UserError: an override cannot be parsed, or the configuration with it is not valid.
    """
    from ftcli.config import compose, load, validate_and_convert

    if not overrides:
        return load(run_dir.path / "config.yaml")
    changed = compose(run_dir.path / "config.yaml", overrides)
    validate_and_convert(changed)
    return changed


def find_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Return dotted key -> (earlier value, present value) for every key that differs."""
    from ftcli.loggers.base import flatten

    old, new = dict(flatten(then)), dict(flatten(now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in keys}


def refuse_changes(
    changed: Mapping[str, Change],
    allow: Sequence[str],
    typed: Sequence[str],
    path: str | Path | None,
) -> None:
    """Refuse changes of keys that alter what a training step computes.

    Args:
        allow: further keys and groups that may change.
        typed: the overrides of the command line.

    Raises:
        UserError, Problems: one error for each key that may not change.
    """
    free = (*FREE_KEYS, *allow)
    keys = [
        k for k in changed if not any(k == prefix or k.startswith(f"{prefix}.") for prefix in free)
    ]
    Problems.raise_if_any([_build_refusal(key, *changed[key], typed, path) for key in keys])


def _build_refusal(
    key: str, old: Any, new: Any, typed: Sequence[str], path: str | Path | None
) -> UserError:
    words = [word for word in typed if key.startswith(word.partition("=")[0].lstrip("+~"))]
    what = f"was {old!r} when the checkpoint was written, now it is {new!r}"
    what += ": later steps would not be those of this run." if words else "."
    return UserError(
        f"{key} {what}" if words else what,
        where="command line" if words else f"{path}/config.yaml  {key}",
        fix=(f"leave out {words[0]}" if words else "restore the earlier value")
        + f", or: ftcli resume {' '.join([str(path), *typed])} --allow {key}",
    )


def build_finished_error(result: Mapping[str, Any], path: str | Path) -> UserError:
    """Return the error for a run that is resumed after its end, with the overrides by which it goes on."""
    step, why = result["step"], result.get("ended_early")
    longer = f"trainer.max_steps={2 * step or 100}"
    if why:  # a larger number of steps alone would end at once
        longer = "callback.early_stopping.patience=N, or '~callback.early_stopping',"
    return UserError(
        f"{path} is finished, at step {step}{f': {why}' if why else ''}.",
        fix=f"ftcli resume {path} {longer} for more, or: ftcli eval {path}",
    )


def require_further_steps(run: Run, step: int, path: str | Path | None) -> int:
    """Return the number of steps of the whole run as configured now; it must exceed the steps taken.

    Raises:
        UserError: the run would end at or before the step that it has reached.
    """
    steps = _count_steps(run, run.trainer)
    if steps > step:
        return steps
    which, words = "trainer.epochs", ["trainer.epochs=N"]
    if run.trainer.max_steps is not None:
        which, words = "trainer.max_steps", [f"trainer.max_steps={2 * step or 100}"]
    raise UserError(
        f"{path} is at step {step}, and {which}={getattr(run.trainer, which[8:])} ends it at step {steps}.",
        where="command line",
        fix=f"ftcli resume {path} {' '.join(words)}",
    )


def _count_steps(run: Run, trainer: Trainer) -> int:
    """Optimizer steps of the whole run under the settings of `trainer`."""
    if trainer.max_steps is None:
        run.load_model()  # it decides how rows are packed, and so how many batches there are
    return int(trainer.count_steps(run))


def warn_schedule_change(run: Run, then: Mapping[str, Any], step: int, steps: int) -> None:
    """Log a warning where the schedule of the new length gives another learning rate than the old one."""
    lengths = {
        k: (then.get("trainer") or {}).get(k, getattr(run.trainer, k))
        for k in ("max_steps", "epochs")
    }
    before = _count_steps(run, replace(run.trainer, **lengths))
    factor = run.scheduler.factor
    if step and before != steps and factor(step - 1, before) != factor(step - 1, steps):
        log.warning(
            "the schedule is that of %d steps from here on: step %d was taken at %.3g times optimizer.lr, "
            "step %d is taken at %.3g times",
            steps, step, factor(step - 1, before), step + 1, factor(step, steps),
        )  # fmt: skip


@contextmanager
def record_changes(
    run_dir: RunDir, config: dict[str, Any], changed: Mapping[str, Change], step: int
) -> Iterator[None]:
    """Write the changes into the record of the run while the block resumes it.

    The results of a finished run move to `ended/step-000006/`. Record and results are restored when
    the block raises a UserError before its first step.

    Args:
        step: the step from which the run is resumed.
    """
    from ftcli.run.record import write_config

    kept = {
        name: (run_dir.path / name).read_bytes()
        for name in RECORD
        if (run_dir.path / name).exists()
    }
    times, aside = run_dir.start_count, run_dir.path / ENDED_FOLDER / f"step-{step:06d}"
    if run_dir.result().get("status") == "finished":
        _move_outcome(run_dir.path, aside)
    if changed:
        write_config(run_dir, config)
        _record_sources(run_dir, changed)
    try:
        yield
    except UserError:
        if run_dir.start_count == times:
            for name, content in kept.items():
                (run_dir.path / name).write_bytes(content)
            _move_outcome(aside, run_dir.path)
            shutil.rmtree(aside, ignore_errors=True)
        raise


def _move_outcome(source: Path, target: Path) -> None:
    for name in OUTCOME:
        if (source / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            if (target / name).is_dir():
                shutil.rmtree(target / name)
            (source / name).replace(target / name)


def _record_sources(run_dir: RunDir, changed: Mapping[str, Change]) -> None:
    from omegaconf import OmegaConf

    file = run_dir.path / "sources.yaml"
    lines: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.exists() else {}
    write_text(file, OmegaConf.to_yaml({**lines, **dict.fromkeys(changed, "ftcli resume")}))
