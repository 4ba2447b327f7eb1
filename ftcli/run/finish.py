"""Files of a run that has ended: the trained artefact, result.json, the report with its plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core import ranks
from ftcli.core.atomic import remove_unfinished, write_folder, write_json
from ftcli.models.generation import save_generation
from ftcli.run.report import write_report

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.core.run_dir import RunDir
    from ftcli.trainer.ending import Outcome


def finish(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Write adapter/ (or model/), result.json and report.md of a run that has ended; returns the result."""
    assert run.dir is not None
    size = 0
    if outcome.status == "finished":
        whole = _rebuild(run.dir) if ranks.is_sharded(run.model) else run
        with whole.evaluation_weights():
            size = save_artefact(whole, run.dir.path / run.method.artefact)
    result = summarize_run(run, outcome, size)
    write_json(run.dir.path / "result.json", result)
    return close_run_dir(run.dir)


def _rebuild(run_dir: RunDir) -> Run:
    """Return the run with its whole weights, from the last checkpoint; the ranks hold only parts of them."""
    from ftcli.run.build import open_run

    return open_run(run_dir.path)


def close_run_dir(run_dir: RunDir) -> dict[str, Any]:
    """Write the report of a run that has a result.json, and record its end; returns the result."""
    remove_unfinished(run_dir.path)
    result = run_dir.result()
    write_report(run_dir)
    run_dir.append_event(result["status"], step=result["step"])
    return result


def save_artefact(run: Run, target: Path) -> int:
    """Save the trained weights and the tokenizer or processor in the library's layout; returns the weights' bytes."""
    with write_folder(target) as unfinished:
        run.method.save(run.model, unfinished)
        if run.tokenizer is not None:
            run.tokenizer.save_pretrained(unfinished)
            save_generation(run.model, run.tokenizer, unfinished)
    return sum(file.stat().st_size for file in target.glob("*.safetensors"))


def summarize_run(run: Run, outcome: Outcome, size: int) -> dict[str, Any]:
    """Return the content of result.json; metrics that were not measured are absent.

    Args:
        size: bytes of the saved artefact; 0 where none was saved.
    """
    from ftcli.methods.left_out import list_left_out
    from ftcli.models.anatomy import count_parameters
    from ftcli.models.bits import measure_model_bits
    from ftcli.trainer.meter import peak_memory_gb

    meter, state = outcome.context.meter, outcome.state
    result: dict[str, Any] = {
        "status": outcome.status,
        "run": str(run.dir.path) if run.dir else "",
        "step": state.step,
        "max_steps": state.max_steps,
        "tokens": state.tokens,
        "supervised_tokens": state.supervised,
        "seconds": meter.total_train_seconds
        + meter.train_seconds,  # with the time since the last log line
        "peak_memory_gb": peak_memory_gb(),
        "forward_passes": meter.evaluations,
        "trainable_parameters": sum(p.numel() for p in outcome.context.parameters),
        "total_parameters": count_parameters(run.model),
        "seed": run.seed,
        "metrics_before": read_initial_scores(run.dir),
        "metrics": outcome.after,
    }
    result |= outcome.context.callbacks["costs"].state_dict() | outcome.metrics
    if result["seconds"] > 0:
        result["tok_s"] = (meter.total_tokens + meter.tokens) / result["seconds"]
    if state.step:
        result["optimizer"] = type(
            outcome.context.optimizer
        ).__name__  # that ran, not as configured
    if state.ended_early:
        result["ended_early"] = state.ended_early
    if size:
        result["adapter_bytes"] = size
    frozen = list_left_out(run.model, getattr(run.method, "left_out", None))
    if frozen:
        result["left_out"] = [item.as_dict() for item in frozen]
    bits = measure_model_bits(run.model)
    return result | ({"bits_per_parameter": bits} if bits else {})


def read_initial_scores(run_dir: RunDir | None) -> dict[str, float]:
    """Return the scores at step 0 from metrics.jsonl."""
    rows = run_dir.metrics() if run_dir is not None else []
    return {
        k: v for row in rows if row["step"] == 0 for k, v in row.items() if k.startswith("eval.")
    }
