"""A plan as text: sections of lines with name, figure and remark."""

from __future__ import annotations

from collections.abc import Iterator

from ftcli.planning.machine import GB, free_disk
from ftcli.planning.plan import Plan

Line = tuple[str, str, str]
Section = tuple[str, list[Line]]


def format_plan(plan: Plan) -> Iterator[Section]:
    """Return the sections of a plan: parameters, memory, largest micro-batch, run."""
    yield "parameters", list(_describe_parameters(plan))
    yield f"memory, {_describe_micro_batch(plan)}", list(_describe_memory(plan))
    yield "largest micro-batch", list(_describe_largest(plan))
    yield "run", list(_describe_run(plan))


def format_bytes(size: float) -> str:
    """Format bytes as `5.70 GB`, small sizes as `16.7 MB`; 10^9 and 10^6 bytes."""
    return f"{size / GB:,.2f} GB" if size >= 0.1 * GB else f"{size / 1e6:,.1f} MB"


def format_duration(seconds: float) -> str:
    """Format seconds as `3 h 20 min`, `12 min` or `40 s`."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _describe_parameters(plan: Plan) -> Iterator[Line]:
    weights, source = plan.estimate.weights, plan.meta_run.source
    yield "model", f"{weights.parameters:,}", f"{source.path} ({source.dtype})"
    share = 100 * weights.trainable / (weights.parameters + weights.adapter_parameters)
    yield "trainable", f"{weights.trainable:,}", f"{share:.3g} % of all"
    if weights.bits is not None:
        double = ", double quantisation" if getattr(source, "double_quant", False) else ""
        how = f"{plan.meta_run.quantization}{double}: {weights.bits:.3f} bits each"
        yield "quantised", f"{weights.quantised_parameters:,}", how


def _describe_micro_batch(plan: Plan) -> str:
    schedule, rows = plan.schedule, plan.meta_run.trainer.batch_size
    if plan.row_tokens == 1:
        return f"micro-batch of {rows} examples"
    if schedule.fullest:
        return f"fullest micro-batch: {schedule.fullest:,} tokens in {rows} rows"
    return f"micro-batch of {rows} rows of {plan.row_tokens:,} tokens"


def _describe_memory(plan: Plan) -> Iterator[Line]:
    memory, weights = plan.memory, plan.estimate.weights
    at_peak = memory.parts()
    remarks = {
        "weights": f"{format_bytes(weights.quantised)} quantised + {format_bytes(weights.rest)} others"
        if weights.quantised
        else "",
        "reference": "a second copy of the model",
        "optimizer": f"{format_bytes(memory.pageable)} may leave the GPU"
        if memory.pageable
        else "",
        "callbacks": "such as an average of the weights",
        "activations": "kept for the backward pass, with gradient checkpointing"
        if plan.estimate.checkpointing
        else "kept for the backward pass",
        "logits": f"{min(plan.estimate.chunk, round(plan.rows * plan.row_tokens)):,} tokens at a time",
        "backward": "gradients of activations, recomputed blocks",
        "runtime": "libraries",
        "allocator": "freed memory that cannot be used again (measured share)",
    }
    for name, size in memory.as_dict().items():
        if name in ("pageable", "total") or not size:
            continue
        label = "backward" if name == "transient" else name
        apart = "" if at_peak[name] else "not there at the peak"
        yield label, format_bytes(size), ", ".join(filter(None, (remarks.get(label, ""), apart)))
    machine = plan.machine
    free = "" if machine.assumed else f", {format_bytes(machine.memory)} free"
    fits = "fits" if plan.fits else "DOES NOT FIT"
    if plan.fits and memory.total > machine.memory:
        fits = "fits, with part of the optimizer paged out,"
    yield "peak", format_bytes(memory.total), f"{fits} {machine.name}{free}"


def _describe_largest(plan: Plan) -> Iterator[Line]:
    """Lines with the most rows of `row_tokens` tokens that fit, without and with checkpointing."""
    times = f"{plan.documents} x " if plan.documents > 1 else ""
    length = f"of {times}{plan.row_tokens:,} tokens" if plan.row_tokens > 1 else ""
    checkpointing = plan.estimate.checkpointing
    names = {"plain": "as it is", "gradient_checkpointing": "trainer.gradient_checkpointing=true"}
    for name, rows in plan.largest.items():
        if checkpointing and name == "plain":
            continue
        yield f"{rows:,} rows", length, "" if checkpointing else names[name]


def _describe_run(plan: Plan) -> Iterator[Line]:
    known = plan.schedule
    epochs = f"{known.epochs:g} epochs" if known.epochs is not None else ""
    of = f"of {known.rows:,} rows" if known.rows is not None else ""
    yield "steps", _format_number(known.steps), " ".join(filter(None, (epochs, of)))
    if known.total_tokens is not None and known.tokens and known.rows and plan.row_tokens > 1:
        learned = (
            f", {100 * known.supervised / known.tokens:.0f} % learned" if known.supervised else ""
        )
        mean = f"{known.tokens / known.rows:.0f} a row, longest {known.longest}{learned}"
        yield "tokens", f"{known.total_tokens:,}", mean
    disk = (
        f"{format_bytes(plan.checkpoint)} a checkpoint, {format_bytes(free_disk(plan.root))} free"
    )
    yield "disk", format_bytes(plan.disk), disk
    if plan.time:
        speed = f"{plan.time.tokens_per_second:,.0f} tokens/s, measured in {plan.time.runs} earlier runs"
        yield "time", format_duration(plan.time.seconds), speed
    else:
        yield "time", "unknown", "no earlier run of this kind on this machine was measured"
    for note in known.notes:
        yield "note", "", note


def _format_number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
